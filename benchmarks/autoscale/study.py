"""Which runs make the page: every rival at several settings, then what decides again with another seed and other start-up times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.autoscale.curves import Curves
from benchmarks.autoscale.fleet import Setup
from benchmarks.autoscale.runs import Found, Run, Runs

OURS = Setup("baton")
"""The defaults."""
APART = Setup("baton", (0.9, 300.0, 0.0))
"""Each pool sized as if it had to do all its work itself, and idle workers kept for five minutes."""
PROPORTIONAL = tuple(
    Setup("proportional", settings)
    for settings in ((1.0, 6.0), (2.0, 12.0), (3.0, 18.0), (4.0, 24.0), (2.0, 8.0), (2.5, 10.0), (2.75, 11.0), (3.0, 14.0))
)
DYNAMO = (Setup("dynamo", (180.0, 0.0)), Setup("dynamo", (60.0, 1.0)), Setup("dynamo-throughput", (60.0, 1.0)))


@dataclass(frozen=True, slots=True)
class Scene:
    """A scenario, and all that is held against ours on it."""

    name: str
    rivals: Sequence[Setup]
    other_seeds: Sequence[int] = (2,)
    start_ups_s: Sequence[float] = ()
    """Beside the usual one. Only for scalers that add workers."""
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a scene."""

    scene: Scene
    first: Mapping[Setup, Found]
    """Everybody, with the first seed."""
    again: Mapping[int, Mapping[Setup, Found]]
    """Ours and those that it was decided by, with other seeds."""
    start_ups: Mapping[float, Mapping[Setup, Found]]
    """Everybody who starts workers, and the static ones as they were."""


def statics(*sizes: tuple[int, int]) -> tuple[Setup, ...]:
    """Pools of so many prefill and decode workers."""
    return tuple(Setup("static", (), prefill, decode) for prefill, decode in sizes)


EVERYWHERE = statics((4, 3), (5, 4), (4, 5), (6, 5))
SCENES = (
    Scene("day", (*EVERYWHERE, *statics((3, 2), (4, 2), (5, 2), (3, 4), (5, 3), (6, 3), (7, 5)), *PROPORTIONAL, *DYNAMO)),
    Scene(
        "burst",
        (*EVERYWHERE, *statics((3, 1), (3, 2), (2, 3), (4, 2), (3, 4), (5, 3)), *PROPORTIONAL, *DYNAMO),
        start_ups_s=(155.0, 277.0),
    ),
    Scene("shift", (*EVERYWHERE, *statics((3, 3), (2, 4), (2, 5), (3, 5), (2, 6), (3, 6)), *PROPORTIONAL, *DYNAMO)),
)


def quick(scene: Scene) -> Scene:
    """One setting of each rival, one seed, and only the beginning: enough to see that all of it works, too little to compare."""
    one_each = {setup.scaler: setup for setup in reversed(scene.rivals)}
    return replace(scene, rivals=tuple(one_each.values()), other_seeds=(), start_ups_s=(), until_s=1500.0)


def everything(scene: Scene, runs: Runs, seed: int) -> Told:
    """All runs of a scene."""

    def of(setups: Sequence[Setup], seed: int, **changes: float) -> dict[Setup, Found]:
        named = {setup: Run(scene.name, setup, seed, until_s=scene.until_s, **changes) for setup in setups}
        found = runs.of(named.values())
        return {setup: found[run] for setup, run in named.items()}

    first = of((OURS, APART, *scene.rivals), seed)
    deciding = Curves(OURS, first).deciding
    again = {other: of((OURS, *deciding), other) for other in scene.other_seeds}
    starting = [setup for setup in (OURS, *scene.rivals) if setup.scaler in ("baton", "proportional")]
    fixed = {setup: found for setup, found in first.items() if setup.scaler == "static"}
    start_ups = {start_up_s: {**of(starting, seed, start_up_s=start_up_s), **fixed} for start_up_s in scene.start_ups_s}
    return Told(scene, first, again, start_ups)
