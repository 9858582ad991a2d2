"""docs/goodput.md: tables and plots of what the sweeps found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.goodput.setups import GPUS, KV_TOKENS, MODEL, PREFILL_STEP_TOKENS, code
from benchmarks.goodput.sweep import Curve, Workload
from simulation.goodput import SHARE, TAIL, WARM_UP
from simulation.svg import Line, Plot, cdf

_HEAD = (
    "| {} | set-up | goodput, req/s | to ours | good/s at most | TTFT p50 / p90, s | TPOT p50 / p90, ms "
    "| by token | worst gaps, s | cached | split |"
)
_RULE = "|---|---|---|---|---|---|---|---|---|---|---|"
Found = Mapping[str, Sequence[Curve]]


def write(path: Path, found: Sequence[tuple[Workload, Found]], seed: int) -> None:
    """The page, and its plots in a folder beside it that has its name."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    sections = [_section(work, curves, folder, number) for number, (work, curves) in enumerate(found, start=1)]
    notes = Path(__file__).with_name("notes.md").read_text().strip()
    path.write_text("\n\n".join([_intro(seed), *sections, notes]) + "\n")


def _intro(seed: int) -> str:
    return f"""# Goodput

Written by `make goodput`, with seed {seed}: on any machine the same numbers, of the code with the digest `{code()}`
(`benchmarks/goodput/setups.py: code`). Everything here is simulated: the production router, queue
and policies and the workers' admission on a virtual clock, around the simulated engine, whose scheduler is compared with vLLM's own
elsewhere (docs/simulator.md). {GPUS} workers of one GPU each, step times `{MODEL}`, room for {KV_TOKENS:,} tokens of KV each,
{PREFILL_STEP_TOKENS} tokens per step of a prefill worker, 200 Gb/s between workers. Requests are promised what stands over each table.

- **Good** is a request whose TTFT, from arrival, and mean TPOT both keep the promise. Refused and failed ones are not.
- **Goodput** is the highest offered rate up to which at least {SHARE:.0%} of the offered requests are good, on a straight line between
  the rates that were tried. *good/s at most* is the most good requests per second at any of them.
- Rates are made by compressing the trace's time: bursts stay bursts, and prefixes come back behind as many requests as they did. Of a
  run, the first {WARM_UP:.0%} and the last {TAIL:.0%} of the arrivals are served but not counted.
- The other columns are taken at the highest rate tried with which the set-up still reaches {SHARE:.0%}; where there is none, at the lowest.
  *by token*: good ones if every token has a deadline of its own, arrival + TTFT + i · TPOT. *worst gaps*: each request's longest gap
  between two tokens, mean over the worst tenth. *cached*: prompt tokens found in a cache. *split*: requests with two workers.
- Every policy has the same queue and admission, and waits there for a worker with room; in its own system it would not. Refusing early what
  cannot be kept is the router's, too, and that the longest makes way: *own* are policies without, as in their own systems (Mooncake's
  refuses early; there the newest is refused); under *with our router* are the best of them with it. Each is shown at the ratio of prefill
  and decode workers (xPyD; A: aggregated) and the step size at which its goodput is the highest.
- *Aggregated* has no `llmd_decode_first` and no `dynamo_kv_conditional`: what is their own is whether a request is split, and nothing is
  there. The second is `dynamo_kv` then.
- *Ablation*: our policy without one term of its cost, or without knowing of caches (*prefix*), of the load at the end of the prompt
  (*foresight*) or of plans with one worker (*alone*); docs/decisions.md has the terms. At its best set-up that has prefill workers:
  without those, half of the terms have nothing to say.
- *Four routers*: each with its own books, and what workers tell of the others'. *blur* is what keeps those that see the same from doing
  the same."""


def _section(work: Workload, found: Found, folder: Path, number: int) -> str:
    ours = found["per request"][0]
    stem = f"{number}-{work.trace}"
    rivals = {kind: _best(found[kind]) for kind in ("aggregated", "disaggregated")}
    verdicts = [
        _verdict(ours, rivals["aggregated"], "aggregated set-up"),
        _verdict(ours, rivals["disaggregated"], "set-up with a fixed ratio, refusing early where its policy does"),
        _verdict(ours, _best(found["with our router"]), "one with all that our router does beside choosing"),
    ]
    shown = [(ours, True), *((curve, False) for curve in (*found["disaggregated"], rivals["aggregated"]))]
    plots = {
        "rate": Plot(
            f"Good requests, {work.name}",
            "offered requests/s",
            "good",
            [Line(curve.setup.name, [(point.rate, point.share) for point in curve.points], bold) for curve, bold in shown],
            max_y=1.0,
            mark_y=SHARE,
        ),
        "ttft": _cdf("TTFT", "s", ours, rivals, work.objective.ttft_s, lambda curve, at: curve.points[at].ttft_s),
        "tpot": _cdf("TPOT", "s", ours, rivals, work.objective.tpot_s, lambda curve, at: curve.points[at].tpot_s),
    }
    for name, plot in plots.items():
        (folder / f"{stem}-{name}.svg").write_text(plot.svg())
    tables = [
        "\n".join([_HEAD.format(kind), _RULE, *(_row(curve, ours) for curve in sorted(curves, key=lambda curve: -curve.goodput))])
        for kind, curves in found.items()
    ]
    images = [f"![{plot.title}]({folder.name}/{stem}-{name}.svg)" for name, plot in plots.items()]
    head = f"## {work.name}\n\n{work.requests:,} requests. The goodput of {ours.setup.name} is\n\n" + "\n".join(verdicts)
    return "\n\n".join([head, *tables[:3], *images, *tables[3:]])


def _best(curves: Sequence[Curve]) -> Curve:
    return max(curves, key=lambda curve: curve.goodput)


def _verdict(ours: Curve, best: Curve, what: str) -> str:
    times = f"**{ours.goodput / best.goodput:.2f}x**" if best.goodput else "Any goodput, against none,"
    rates = zip(ours.points, best.points, strict=False)
    lost = [(point.rate, other.share - point.share) for point, other in rates if other.share - point.share > 0.02]
    worse = "; ".join(f"{share * 100:.1f} points at {rate:.1f}/s" for rate, share in lost)
    return f"- {times} that of the best {what}: {best.setup.name}. Over 2 points fewer good requests than there: {worse or 'at no rate'}."


def _row(curve: Curve, ours: Curve) -> str:
    good = [point for point in curve.points if point.share >= SHARE]
    at = good[-1] if good else curve.points[0]
    if not curve.goodput:
        found = f"under {curve.points[0].rate:.1f}"
    else:
        found = f"{curve.goodput:.1f}" if curve.is_found else f"over {curve.goodput:.1f}"
    to_ours = f"{curve.goodput / ours.goodput:.2f}" if ours.goodput and curve.goodput else "-"
    ttft = f"{at.ttft_s[50]:.2f} / {at.ttft_s[90]:.2f}" if at.ttft_s else "-"
    tpot = f"{at.tpot_s[50] * 1000:.0f} / {at.tpot_s[90] * 1000:.0f}" if at.tpot_s else "-"
    return (
        f"| {curve.setup.policy} | {curve.setup.name.removeprefix(curve.setup.policy).strip()} | {found} | {to_ours} "
        f"| {max(point.good_per_s for point in curve.points):.1f} | {ttft} | {tpot} | {at.good_by_token / at.offered:.0%} "
        f"| {at.worst_gaps_s:.2f} | {at.hit_share:.0%} | {at.split_share:.0%} |"
    )


def _cdf(
    what: str, unit: str, ours: Curve, rivals: Mapping[str, Curve], objective_s: float, quantiles: Callable[[Curve, int], Sequence[float]]
) -> Plot:
    """All at the rate at which ours is last good enough, as far as they were tried at it."""
    at = max((index for index, point in enumerate(ours.points) if point.share >= SHARE), default=0)
    curves = [curve for curve in (ours, *rivals.values()) if len(curve.points) > at]
    lines = [cdf(curve.setup.name, quantiles(curve, at), curve is ours) for curve in curves]
    return Plot(
        f"{what} at {ours.points[at].rate:.1f} requests/s", f"{what}, {unit}", "requests", lines, max_x=2 * objective_s, mark_x=objective_s
    )
