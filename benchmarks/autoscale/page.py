"""docs/autoscaling.md: what every scaler attained, and with how many worker-hours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks.autoscale.fleet import BUDGET, KV_TOKENS, MODEL, OBJECTIVE
from benchmarks.autoscale.runs import Found, Run
from benchmarks.autoscale.scenarios import SCENARIOS
from simulation.elastic import Pace
from simulation.svg import Line, Plot

OURS = "baton"
DEFAULT = (0.9,)
"""The settings of ours that are the defaults, and that all others are held against."""
_HEAD = "| scaler | promise kept | refused | worker-hours | relabelled | added | drained |\n|---|---|---|---|---|---|---|"
Point = tuple[float, float]


def write(path: Path, found: Mapping[Run, Found], seed: int) -> None:
    """The page, and its plots in a folder beside it that has its name."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    scenarios = dict.fromkeys(run.scenario for run in found)
    sections = [_section(name, {run: each for run, each in found.items() if run.scenario == name}, folder) for name in scenarios]
    path.write_text("\n\n".join([_intro(seed), *sections]) + "\n")


def hours_for(points: Iterable[Point], attained: float) -> float | None:
    """Worker-hours with which a rival attains so much, on straight lines between its settings; None where none of them does."""
    return min((hours for hours, share in _filled(points) if share >= attained - 1e-9), default=None)


def attained_with(points: Iterable[Point], hours: float) -> float | None:
    """What a rival attains with at most so many worker-hours; None where all its settings take more."""
    return max((share for spent, share in _filled(points) if spent <= hours + 1e-9), default=None)


def _filled(points: Iterable[Point]) -> list[Point]:
    """The points, and a hundred between each and the next one with more hours."""
    ordered = sorted(points)
    filled = list(ordered)
    for (hours, share), (next_hours, next_share) in pairwise(ordered):
        filled += [(hours + (next_hours - hours) * part / 100, share + (next_share - share) * part / 100) for part in range(1, 100)]
    return filled


def _intro(seed: int) -> str:
    pace = Pace()
    return f"""# Autoscaling

Written by `make autoscale`, with seed {seed}: on any machine the same numbers. Everything here is simulated, as for docs/goodput.md: the
production router, queue, policy and admission on a virtual clock. Workers of one GPU each, step times `{MODEL}`, room for
{KV_TOKENS:,} tokens of KV each; a worker takes {pace.start_up_s:g} s ± {pace.start_up_spread:.0%} to start, a scaler is asked every
{pace.every_s:g} s, and there are at most {BUDGET} workers. Requests are promised {OBJECTIVE.ttft_s:g} s to the first token and
{OBJECTIVE.tpot_s * 1000:g} ms per token after it; refused ones count as broken promises. All begin with three prefill and two decode
workers, but for the static ones, which have what their name says for ever. Worker-hours count from when a worker is asked for to when it
is gone, starting and draining included.

- **baton** U: `autoscaler/scaler.py`, its workers at most U busy; {DEFAULT[0]:g} is the default.
- **static** xPyD: no scaler.
- **proportional** p d: KEDA's and Kubernetes' rule on requests that run or wait, p and d of them per worker
  (`autoscaler/proportional.py`).
- **dynamo**: the published rule of Dynamo's planner (`autoscaler/dynamo_planner.py`), both loops; **dynamo-throughput**: the slow one
  alone.

The rivals are shown at several settings each; held against Baton's defaults is the best that any of them does, on straight lines between
settings of the same scaler. All of them drive the same cluster with Baton's router, which refuses early and lets one worker do both phases
where that is faster: what differs is the number of workers and their roles, and nothing else."""


def _section(name: str, found: Mapping[Run, Found], folder: Path) -> str:
    rows = [_row(run, each) for run, each in found.items()]
    kinds: dict[str, list[Point]] = {}
    for run, each in found.items():
        kinds.setdefault(run.setup.scaler, []).append((each.worker_hours, each.attained))
    ours = next(each for run, each in found.items() if run.setup.scaler == OURS and run.setup.settings == DEFAULT)
    plots = {
        "cost": Plot(
            f"{name}: promises kept",
            "worker-hours",
            "of all requests",
            [Line(kind, _in_view(points), kind == OURS) for kind, points in kinds.items()],
            max_y=1.0,
        ),
        "workers": Plot(
            f"{name}: workers with baton",
            "minutes",
            "workers",
            [Line("ready and starting", ours.workers, True), Line("wanted", ours.wanted)],
        ),
    }
    for what, plot in plots.items():
        (folder / f"{name}-{what}.svg").write_text(plot.svg())
    images = [f"![{plot.title}]({folder.name}/{name}-{what}.svg)" for what, plot in plots.items()]
    about = " ".join((SCENARIOS[name].__doc__ or "").split())
    return "\n\n".join([f"## {name}\n\n{about}", _verdict(ours, kinds), "\n".join([_HEAD, *rows]), *images])


def _in_view(points: Sequence[Point]) -> list[Point]:
    """In order; a single one as a short line, or nobody would see it."""
    ordered = sorted(points)
    return ordered if len(ordered) > 1 else [ordered[0], (ordered[0][0] * 1.02, ordered[0][1])]


def _row(run: Run, found: Found) -> str:
    relabelled, added, drained = (found.actions.get(kind, 0) for kind in ("Relabel", "Add", "Drain"))
    name = f"**{run.setup.name}**" if run.setup.scaler == OURS else run.setup.name
    return f"| {name} | {found.attained:.1%} | {found.refused:.1%} | {found.worker_hours:.2f} | {relabelled} | {added} | {drained} |"


def _verdict(ours: Found, kinds: Mapping[str, Sequence[Point]]) -> str:
    """Against the best rival, both ways; a rival that never does as well is worse at any price."""
    rivals = {kind: points for kind, points in kinds.items() if kind != OURS}
    hours = {kind: spent for kind, points in rivals.items() if (spent := hours_for(points, ours.attained)) is not None}
    shares = {kind: share for kind, points in rivals.items() if (share := attained_with(points, ours.worker_hours)) is not None}
    texts = [f"Baton's defaults keep {ours.attained:.1%} of the promises with {ours.worker_hours:.2f} worker-hours."]
    if hours:
        best = min(hours, key=lambda kind: hours[kind])
        saved = 1 - ours.worker_hours / hours[best]
        texts.append(f"The cheapest rival that keeps as many is {best}, with {hours[best]:.2f}: **{saved:.0%} fewer worker-hours**.")
    else:
        texts.append("**No rival keeps as many**, at any of its settings.")
    if shares:
        best = max(shares, key=lambda kind: shares[kind])
        points = (ours.attained - shares[best]) * 100
        texts.append(f"With as many worker-hours the best rival is {best}, with {shares[best]:.1%}: **{points:+.1f} points**.")
    return " ".join(texts)
