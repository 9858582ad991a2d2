"""docs/autoscaling.md: what every scaler attained, and with how many worker-hours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.autoscale.curves import Curves, Point
from benchmarks.autoscale.fleet import BUDGET, KV_TOKENS, MODEL, OBJECTIVE, Setup
from benchmarks.autoscale.runs import Found, code
from benchmarks.autoscale.scenarios import SCENARIOS
from benchmarks.autoscale.study import OURS, Told
from simulation.elastic import Pace
from simulation.svg import Line, Plot

_HEAD = "| scaler | seed | promises kept | refused | worker-hours | relabelled | added | drained |\n|---|---|---|---|---|---|---|---|"


def write(path: Path, told: Sequence[Told], seed: int) -> None:
    """The page, and its plots in a folder beside it that has its name."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    notes = Path(__file__).with_name("notes.md").read_text().strip()
    sections = [_section(each, folder, seed) for each in told]
    path.write_text("\n\n".join([_intro(seed), _summary(told), *sections, notes]) + "\n")


def _intro(seed: int) -> str:
    pace = Pace()
    return f"""# Autoscaling

Written by `make autoscale`, with seed {seed} where no other is named: on any machine the same numbers, of the code with the digest
`{code()}` (`benchmarks/autoscale/runs.py: code`). Everything here is simulated, as for docs/goodput.md: the production router, queue,
policy and admission on a virtual clock. Workers of one GPU each, step times `{MODEL}`, room for {KV_TOKENS:,} tokens of KV each; a
worker takes {pace.start_up_s:g} s ± {pace.start_up_spread:.0%} to start (where that is from: below), a scaler is asked
every {pace.every_s:g} s, and there are at most {BUDGET} workers. Requests are promised {OBJECTIVE.ttft_s:g} s to the first token and
{OBJECTIVE.tpot_s * 1000:g} ms per token after it; refused ones count as broken promises. All begin with three prefill and two decode
workers, but for the static ones, which have what their name says for ever. Worker-hours count from when a worker is asked for to when it
is gone, starting and draining included.

- **baton** u s m: `autoscaler/scaler.py` with `utilisation` u, `shrink_after_s` s and `mixes` m (at 0, each pool is sized as if it had to
  do all its work itself); without numbers, with its defaults. The same in every scene.
- **static** xPyD: no scaler.
- **proportional** p d: KEDA's and Kubernetes' rule on requests that run or wait, p and d of them per prefill and decode worker
  (`autoscaler/proportional.py`).
- **dynamo** s k: the published rule of Dynamo's planner (`autoscaler/dynamo_planner.py`), both loops, the slow one every s seconds, with
  its kalman predictor (k = 1) or its constant one (k = 0); **dynamo-throughput**: the slow loop alone.

Held against Baton is the best that any rival does at any of its settings, on straight lines between the best settings of the same scaler.
All of them drive the same cluster with Baton's router, which refuses early, has the longest prompt make way where not all can be in
time, and lets a decode worker compute a prompt where that is faster: what differs is the number of workers and their roles, and nothing
else. So rivals are better here than with their own routers."""


def _summary(told: Sequence[Told]) -> str:
    """One row for every time that ours was held against others."""
    rows: list[str] = []
    for each in told:
        usual_s = Pace().start_up_s
        rows.append(_verdict_row(each.scene.name, f"{usual_s:g} s", Curves(OURS, each.first)))
        rows += [
            _verdict_row(f"{each.scene.name}, seed {seed}", f"{usual_s:g} s", Curves(OURS, found)) for seed, found in each.again.items()
        ]
        rows += [_verdict_row(each.scene.name, f"{took_s:g} s", Curves(OURS, found)) for took_s, found in each.start_ups.items()]
    if len(told) > 1:
        rows.append(_verdict_row("all, one setting for each", f"{Pace().start_up_s:g} s", Curves(OURS, _together(told))))
    head = (
        "| scene | start-up | baton keeps | with worker-hours | cheapest rival that keeps as many | fewer worker-hours "
        "| best rival with as many worker-hours | points more | target |\n|---|---|---|---|---|---|---|---|---|"
    )
    return "\n".join(
        [
            "## In short\n",
            "The target is ten points more promises kept at equal worker-hours, or a fifth fewer worker-hours at equal promises. With",
            "another seed, rivals have the settings that decided the first; with another start-up time, they are static or",
            "proportional. In most rows a rival has the settings that suit that traffic best, as if it had been known. In the last",
            "one every rival keeps one setting through all scenes, as Baton does everywhere: worker-hours are their sum, promises",
            "kept their mean.\n",
            head,
            *rows,
        ]
    )


def _together(told: Sequence[Told]) -> dict[Setup, Found]:
    """Of the settings that were tried in every scene, with the first seed."""
    common = set.intersection(*(set(each.first) for each in told))
    found = {setup: [each.first[setup] for each in told] for setup in common}
    return {
        setup: Found(
            mean(each.attained for each in scenes),
            mean(each.refused for each in scenes),
            sum(each.worker_hours for each in scenes),
            {},
            [],
            [],
        )
        for setup, scenes in sorted(found.items())
    }


def _verdict_row(name: str, start_up: str, curves: Curves) -> str:
    ours, cheapest, best = curves.found[OURS], curves.cheapest, curves.best
    rival = "none" if cheapest is None else f"{cheapest[0]}, {cheapest[1]:.2f}"
    saved = "-" if curves.saved is None else f"**{curves.saved:.0%}**"
    equal = "none is as cheap" if best is None else f"{best[0]}, {best[1]:.1%}"
    gained = "-" if curves.gained is None else f"{curves.gained * 100:+.1f}"
    met = "met" if curves.meets_target else "missed"
    return f"| {name} | {start_up} | {ours.attained:.1%} | {ours.worker_hours:.2f} | {rival} | {saved} | {equal} | {gained} | {met} |"


def _section(told: Told, folder: Path, seed: int) -> str:
    name, curves = told.scene.name, Curves(OURS, told.first)
    ours = told.first[OURS]
    plots = {
        "cost": Plot(
            f"{name}: promises kept",
            "worker-hours",
            "of all requests",
            [Line("baton", _in_view([(ours.worker_hours, ours.attained)]), True)]
            + [Line(kind, _in_view(points)) for kind, points in curves.kinds.items()],
            max_y=1.0,
            mark_x=ours.worker_hours,
            mark_y=ours.attained,
        ),
        "workers": Plot(f"{name}: workers, ready and starting", "minutes", "workers", _workers(curves)),
        "demand": Plot(
            f"{name}: demand and forecast",
            "minutes",
            "prompt tokens/s to compute",
            [Line("asked", ours.demand, True), Line("forecast, with margin", ours.forecast)],
        ),
    }
    for what, plot in plots.items():
        (folder / f"{name}-{what}.svg").write_text(plot.svg())
    images = [f"![{plot.title}]({folder.name}/{name}-{what}.svg)" for what, plot in plots.items()]
    rows = [_row(setup, each, seed) for setup, each in told.first.items()]
    rows += [_row(setup, each, other) for other, found in told.again.items() for setup, each in found.items()]
    about = " ".join((SCENARIOS[name].__doc__ or "").split())
    return "\n\n".join([f"## {name}\n\n{about}", "\n".join([_HEAD, *rows]), *images])


def _workers(curves: Curves) -> list[Line]:
    """Ours, what it wanted, and of each rival that moves the setting nearest to ours in worker-hours."""
    ours = curves.found[OURS]
    nearest: dict[str, Setup] = {}
    for setup, each in sorted(curves.found.items(), key=lambda item: abs(item[1].worker_hours - ours.worker_hours)):
        if setup != OURS and each.actions:
            nearest.setdefault(setup.scaler.partition("-")[0], setup)
    lines = [Line("baton", ours.workers, True), Line("baton wanted", ours.wanted)]
    return lines + [Line(setup.name, curves.found[setup].workers) for setup in nearest.values()]


def _in_view(points: Sequence[Point]) -> list[Point]:
    """In order; a single one as a short line, or nobody would see it."""
    ordered = sorted(points)
    return ordered if len(ordered) > 1 else [ordered[0], (ordered[0][0] * 1.02, ordered[0][1])]


def _row(setup: Setup, found: Found, seed: int) -> str:
    relabelled, added, drained = (found.actions.get(kind, 0) for kind in ("Relabel", "Add", "Drain"))
    name = f"**{setup.name}**" if setup == OURS else setup.name
    return (
        f"| {name} | {seed} | {found.attained:.1%} | {found.refused:.1%} | {found.worker_hours:.2f} | {relabelled} | {added} | {drained} |"
    )
