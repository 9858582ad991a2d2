"""Deployments with prefill and decode apart that others measured: one row each, as it stands in the file."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import msgspec

FILE = Path(__file__).parents[1] / "data" / "disaggregated_measured.csv"


class Side(msgspec.Struct, frozen=True):
    """The engines of one role. Each has ``tp`` GPUs for every group of requests, and ``groups`` such groups (data parallel attention)."""

    workers: int
    tp: int
    groups: int
    ep: int
    """GPUs over which experts are spread; 0: not told."""
    gpus: int
    """Of all engines."""


class Row(msgspec.Struct, frozen=True):
    """One measurement."""

    name: str
    model: str
    precision: str
    gpu: str
    engine: str
    version: str
    input_tokens: int
    output_tokens: int
    clients: int | None
    """Requests at a time; None: not told."""
    prefill: Side
    decode: Side
    ttft_s: float
    """Mean."""
    tpot_s: float
    """Mean."""

    @property
    def family(self) -> str:
        """What is the same in rows that differ by layout and load."""
        return f"{self.model.split('/')[-1]} {self.precision} {self.gpu} {self.engine}"

    @property
    def gpus(self) -> int:
        return self.prefill.gpus + self.decode.gpus


def tokens_per_s_per_gpu(row: Row, ttft_s: float, tpot_s: float) -> float:
    """Output of all clients by those two means: so the file has it, too. Raises ValueError where nobody told how many clients."""
    if row.clients is None:
        raise ValueError(f"{row.name} does not tell how many clients there were")
    return row.clients * row.output_tokens / (ttft_s + tpot_s * (row.output_tokens - 1)) / row.gpus


def read(path: Path = FILE) -> list[Row]:
    """All rows, in the file's order. Raises ValueError that names the row that is wrong."""
    with path.open(newline="") as lines:
        return [_row(record) for record in csv.DictReader(lines)]


def best(rows: Iterable[Row]) -> Row:
    """The one with the most output tokens per second and GPU, of those that tell how many clients they had."""
    return max((row for row in rows if row.clients), key=lambda row: tokens_per_s_per_gpu(row, row.ttft_s, row.tpot_s))


def _row(record: dict[str, str]) -> Row:
    try:
        row = Row(
            name=record["id"],
            model=record["model_path"],
            precision=record["precision"],
            gpu=record["system"],
            engine=record["backend"],
            version=record["backend_version"],
            input_tokens=int(record["isl"]),
            output_tokens=int(record["osl"]),
            clients=round(float(record["conc"])) if record["conc"] else None,
            prefill=_side(record, "prefill"),
            decode=_side(record, "decode"),
            ttft_s=float(record["silicon_ttft_ms"]) / 1e3,
            tpot_s=float(record["silicon_tpot_ms"]) / 1e3,
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"row {record.get('id')!r} cannot be read: {error}") from None
    for side in (row.prefill, row.decode):
        if side.workers * side.tp * side.groups != side.gpus:
            raise ValueError(f"row {row.name!r} has {side.gpus} GPUs, which are not {side.workers} * {side.tp} * {side.groups}")
    return row


def _side(record: dict[str, str], role: str) -> Side:
    def number(what: str) -> int:
        return round(float(record[f"{role}_{what}"]))

    return Side(number("num_workers"), number("tp_size"), number("attention_dp_size"), number("moe_ep_size"), number("gpus"))
