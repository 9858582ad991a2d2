"""How far one distribution is from another, at its percentiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.validate_cluster.fitting import Reading

SHARES = (0.50, 0.90, 0.99)
TARGET = 0.15


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]


def error(simulated: float, measured: float) -> float:
    """Relative, positive where the simulation is slower."""
    return simulated / measured - 1.0


def table(measured: Sequence[Reading], fixed: Sequence[Reading], drawn: Sequence[Reading]) -> str:
    """Markdown: both measures at each percentile, and whether the target is met with drawn overheads."""
    lines = [
        "| | percentile | measured | overheads fixed | error | overheads drawn | error | within 15 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, of in (("TTFT", _ttft_s), ("TPOT", _tpot_s)):
        for share in SHARES:
            real, ours, by_chance = (_at(readings, of, share) for readings in (measured, fixed, drawn))
            met = "yes" if abs(error(by_chance, real)) <= TARGET else "no"
            lines.append(
                f"| {name} | p{share * 100:.0f} | {real * 1e3:.1f} ms | {ours * 1e3:.1f} ms | {error(ours, real):+.1%} "
                f"| {by_chance * 1e3:.1f} ms | {error(by_chance, real):+.1%} | {met} |"
            )
    return "\n".join(lines)


def _at(readings: Sequence[Reading], of: Callable[[Reading], float], share: float) -> float:
    return percentile([of(reading) for reading in readings], share)


def _ttft_s(reading: Reading) -> float:
    return reading.ttft_s


def _tpot_s(reading: Reading) -> float:
    return reading.tpot_s
