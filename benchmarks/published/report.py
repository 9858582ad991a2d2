"""Measured and simulated side by side, as markdown; and how far apart they are. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import msgspec

from benchmarks.published.load import Means
from benchmarks.published.ratio import Division
from benchmarks.published.rows import Row, Side, tokens_per_s_per_gpu

_MANY = 0.9


class Compared(msgspec.Struct, frozen=True):
    """A row and what was simulated of it."""

    row: Row
    means: Means

    @property
    def errors(self) -> tuple[float, float, float]:
        """Relative, of TTFT, TPOT and output per GPU: below 0 where the simulation says less."""
        row, means = self.row, self.means
        measured = tokens_per_s_per_gpu(row, row.ttft_s, row.tpot_s)
        return (
            means.ttft_s / row.ttft_s - 1.0,
            means.tpot_s / row.tpot_s - 1.0,
            tokens_per_s_per_gpu(row, means.ttft_s, means.tpot_s) / measured - 1.0,
        )


def rows_table(compared: Iterable[Compared]) -> str:
    """One line for each."""
    lines = [
        "| model, bits | GPU | engine | in / out | GPUs for prompts : answers | clients | TTFT measured | simulated | error "
        "| TPOT measured | simulated | error | tokens/s per GPU measured | simulated | error |",
        "|" + "---|" * 15,
    ]
    for one in compared:
        row, means = one.row, one.means
        ttft, tpot, tokens = (f"{error:+.0%}" for error in one.errors)
        measured, simulated = (tokens_per_s_per_gpu(row, of.ttft_s, of.tpot_s) for of in (row, means))
        lines.append(
            f"| {row.model.split('/')[-1]} {row.precision} | {row.gpu.removesuffix('_sxm')} | {row.engine} "
            f"| {row.input_tokens} / {row.output_tokens} "
            f"| {_layout(row.prefill)} : {_layout(row.decode)} | {row.clients} "
            f"| {row.ttft_s:.2f} s | {means.ttft_s:.2f} s | {ttft} | {row.tpot_s * 1e3:.1f} ms | {means.tpot_s * 1e3:.1f} ms | {tpot} "
            f"| {measured:.0f} | {simulated:.0f} | {tokens} |"
        )
    return "\n".join(lines)


def groups_table(compared: Sequence[Compared]) -> str:
    """Medians over rows that have something in common, and over all."""
    lines = ["| rows | | TTFT: median error | of its size | TPOT | of its size | tokens/s per GPU | of its size |", "|" + "---|" * 8]
    for name, members in _groups(compared).items():
        cells = [str(len(members))]
        for errors in zip(*(one.errors for one in members), strict=True):
            sizes = sorted(abs(error) for error in errors)
            cells += [f"{median(errors):+.0%}", f"{median(sizes):.0%} (p90 {sizes[round(_MANY * (len(sizes) - 1))]:.0%})"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def left_out_table(reasons: Mapping[str, str]) -> str:
    """Rows that were not simulated, and why."""
    return "\n".join(["| row | why it is not simulated |", "|---|---|", *(f"| `{name}` | {why} |" for name, why in reasons.items())])


def divisions_table(row: Row, divisions: Sequence[Division]) -> str:
    """Every ratio beside the measured best."""
    best = max(divisions, key=lambda division: division.tokens_per_s_per_gpu)
    measured, tokens = Means(row.ttft_s, row.tpot_s), tokens_per_s_per_gpu(row, row.ttft_s, row.tpot_s)
    lines = [
        f"{row.family}, {row.input_tokens} in / {row.output_tokens} out, TTFT and TPOT no worse than measured\n",
        "| GPUs for prompts : answers | clients | TTFT | TPOT | tokens/s per GPU | |",
        "|---|---|---|---|---|---|",
        f"| {row.prefill.gpus}:{row.decode.gpus} measured | {row.clients} | {_means(measured)} | {tokens:.0f} | best |",
    ]
    for division in divisions:
        ratio = f"{division.prefill_gpus}:{division.decode_gpus} simulated"
        if division.means is None:
            lines.append(f"| {ratio} | | | | 0 | too slow with any number of clients that was tried |")
            continue
        note = "best" if division is best else ""
        lines.append(f"| {ratio} | {division.clients} | {_means(division.means)} | {division.tokens_per_s_per_gpu:.0f} | {note} |")
    return "\n".join(lines)


def _means(means: Means) -> str:
    return f"{means.ttft_s:.2f} s | {means.tpot_s * 1e3:.1f} ms"


def _groups(compared: Sequence[Compared]) -> dict[str, list[Compared]]:
    found: dict[str, list[Compared]] = defaultdict(list)
    for one in compared:
        row = one.row
        found[f"{row.model.split('/')[-1]} {row.precision}"].append(one)
    for one in compared:
        found[one.row.engine].append(one)
    for one in compared:
        found[one.row.gpu.removesuffix("_sxm")].append(one)
    for one in compared:
        found[f"{one.row.input_tokens} in"].append(one)
    return {**found, "all": list(compared)}


def _layout(side: Side) -> str:
    """As 3 * tp8, or 1 * 8 * tp1 where eight groups share the experts."""
    groups = f"{side.groups} * " if side.groups > 1 else ""
    return f"{side.gpus} ({side.workers} * {groups}tp{side.tp})"
