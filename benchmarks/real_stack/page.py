"""docs/real-stack.md: the figures of both sides, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import mean

from benchmarks.real_stack.comparison import Comparison
from benchmarks.real_stack.real import Measured
from benchmarks.real_stack.runs import Found, code
from simulation.goodput import Outcome

_WITHIN = 0.1
"""What is aimed at, of the virtual goodput."""
_INTRODUCTION = """\
# The same stack for real

Policies are compared on a virtual clock (`make goodput`). This page asks whether that is true of the stack itself:
`baton up` with {routers} routers, {prefill} prefill and {decode} decode workers under Ray, Ray Serve's HTTP in front, tokeniser, CURVE
sockets and all, on {cpus} CPU cores. Only the engines are simulated, by the code and with the step times that the virtual clock drives.

`{command}`; written by that command, with the code whose digest is `{code}` (`benchmarks/real_stack/runs.py: code`).

- Both are given the same requests: the first {requests} of `{trace}` with prompts of at most {longest_tokens:,} tokens, {warm_up}
  more before them that are not counted, and the same promise: TTFT {ttft_s:g} s and TPOT {tpot_ms:g} ms. Good is who got both; refused
  is not good. Refusing early (`objectives.refuse: hopeless`) is on in both.
- Real engines and the routers' clocks go {slowdown:g} times slower than the wall's (`engine.simulated.slowdown`), and so do arrivals;
  figures are divided by it again. What HTTP, tokenising, sockets and the event loops need is not slowed down: it counts as a
  {slowdown:g}th of what it takes. The virtual clock is not slowed down.
- In both, clients say how long their answers will be (`max_tokens`), unlike there, and all engines make steps of
  at most 2,048 tokens.
- The virtual side is the mean over {seeds} seeds, of which the lowest and the highest are in brackets: policies draw lots, and a
  request that is refused in one run changes the fate of those behind it. The real side is one run.
"""


def page(comparison: Comparison, found: Sequence[Found], command: str, cpus: int) -> str:
    """The whole of it."""
    text = [
        _INTRODUCTION.format(
            **{name: getattr(comparison, name) for name in comparison.__struct_fields__},
            ttft_s=comparison.objective.ttft_s,
            tpot_ms=1000 * comparison.objective.tpot_s,
            seeds=len(found[0].virtual),
            cpus=cpus,
            command=command,
            code=code(),
        ),
        _verdict(comparison, found),
        *(_rate(rate, index, found) for index, rate in enumerate(comparison.rates)),
        _machine(comparison, found),
    ]
    return "\n".join(text)


def share(each: Found, rate: int) -> float:
    """The virtual one, mean over seeds."""
    return mean(seed[rate].share for seed in each.virtual)


def error(each: Found, rate: int) -> float:
    """Of the real goodput, as a part of the virtual one: their rates are the same, so shares will do."""
    return each.real[rate].outcome.share / share(each, rate) - 1.0


def is_within_seeds(each: Found, rate: int) -> bool:
    """Whether the real share could as well have been one seed's."""
    shares = [seed[rate].share for seed in each.virtual]
    return min(shares) <= each.real[rate].outcome.share <= max(shares)


def ordered_alike(found: Sequence[Found], rate: int) -> tuple[int, int, int]:
    """Of the pairs of policies whose seeds do not overlap on the virtual clock: how many are in the same order for real, how many there
    are; and all pairs. Of the others the virtual clock itself does not say which is better."""
    alike = told = 0
    pairs = list(combinations(found, 2))
    for one, other in pairs:
        low, high = sorted((one, other), key=lambda each: share(each, rate))
        if max(seed[rate].share for seed in low.virtual) < min(seed[rate].share for seed in high.virtual):
            told += 1
            alike += low.real[rate].outcome.share < high.real[rate].outcome.share
    return alike, told, len(pairs)


def _verdict(comparison: Comparison, found: Sequence[Found]) -> str:
    points = [(each, rate) for each in found for rate in range(len(comparison.rates))]
    errors = [abs(error(*point)) for point in points]
    within, among = sum(one <= _WITHIN for one in errors), sum(is_within_seeds(*point) for point in points)
    lines = [
        "## Do they agree?\n",
        f"Goodput for real is within {_WITHIN:.0%} of the virtual clock's in {within} of {len(points)} points; mean difference"
        f" {mean(errors):.1%}, largest {max(errors):.1%}. In {among} of {len(points)} it lies between the seeds.\n",
        "| requests/s | order on the virtual clock | order for real | pairs that seeds tell apart: ordered alike |",
        "|---|---|---|---|",
    ]
    for index, rate in enumerate(comparison.rates):
        virtual = sorted(found, key=lambda each: -share(each, index))
        real = sorted(found, key=lambda each: -each.real[index].outcome.share)
        alike, told, pairs = ordered_alike(found, index)
        lines.append(f"| {rate:g} | {_names(virtual)} | {_names(real)} | {alike} of {told} (of {pairs} pairs) |")
    if any(each.disturbed for each in found):
        lines.append(f"\n**Preliminary: others used the machine while this was measured** ({_names([f for f in found if f.disturbed])}).")
    return "\n".join(lines) + "\n"


def _rate(rate: float, index: int, found: Sequence[Found]) -> str:
    lines = [
        f"## {rate:g} requests per second\n",
        "| policy | good, virtual | good, real | difference | goodput/s, virtual / real | TTFT p50 / p90 s, virtual | real "
        "| TPOT p50 / p90 ms, virtual | real | refused, virtual / real |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        seeds, real = [seed[index] for seed in each.virtual], each.real[index].outcome
        low, high = min(seed.share for seed in seeds), max(seed.share for seed in seeds)
        good = mean(seed.good_per_s for seed in seeds)
        lines.append(
            f"| {each.policy} | {share(each, index):.1%} [{low:.1%}, {high:.1%}] | {real.share:.1%} | {error(each, index):+.1%}"
            f" | {good:.1f} / {real.good_per_s:.1f} | {_ttft(seeds)} | {_ttft([real])} | {_tpot(seeds)} | {_tpot([real])}"
            f" | {mean(seed.failed for seed in seeds):.0f} / {real.failed} of {real.offered} |"
        )
    return "\n".join(lines) + "\n"


def _machine(comparison: Comparison, found: Sequence[Found]) -> str:
    lines = [
        "## What the machine had to do\n",
        "Shares of all cores' time. At more than about 0.6 processes wait for each other, and the real side is slow for that reason.\n",
        "| policy | requests/s | stack | client | others | of the stack |",
        "|---|---|---|---|---|---|",
    ]
    for each in found:
        for rate, measured in zip(comparison.rates, each.real, strict=True):
            lines.append(
                f"| {each.policy} | {rate:g} | {measured.stack_cpu:.2f} | {measured.client_cpu:.2f} | {measured.others_cpu:.2f}"
                f" | {_processes(measured)} |"
            )
    return "\n".join(lines) + "\n"


def _processes(measured: Measured) -> str:
    most = sorted(measured.cpu_by_process.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{title} {part:.2f}" for title, part in most)


def _names(found: Sequence[Found]) -> str:
    return ", ".join(each.policy for each in found)


def _ttft(outcomes: Sequence[Outcome]) -> str:
    return " / ".join(f"{mean(one.ttft_s[part] for one in outcomes):.3f}" for part in (50, 90))


def _tpot(outcomes: Sequence[Outcome]) -> str:
    return " / ".join(f"{1000 * mean(one.tpot_s[part] for one in outcomes):.1f}" for part in (50, 90))
