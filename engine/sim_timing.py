"""How long one engine step takes: constant, a polynomial, or a measured table."""

from __future__ import annotations

import csv
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

import msgspec

from core.errors import ConfigError
from core.step_model import StepModel, StepWork


class ConstantTime(msgspec.Struct, frozen=True, tag="constant", forbid_unknown_fields=True):
    """Every step takes the same time; 0 makes an instant engine."""

    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise ConfigError("must not be below 0", "seconds")

    def step_s(self, work: StepWork) -> float:
        return self.seconds


class PolynomialTime(StepModel, frozen=True, tag="polynomial", forbid_unknown_fields=True):
    """``a + b*tokens + c*tokens^2`` for prefill, ``a + b*batch + c*context`` for decode; a mixed step pays the larger ``a`` once."""


class PrefillRow(msgspec.Struct, frozen=True):
    """One measured prefill step."""

    tokens: int
    seconds: float


class DecodeRow(msgspec.Struct, frozen=True):
    """One measured decode step. Every measured batch needs at least one context."""

    batch: int
    context_tokens: int
    """Per request."""
    seconds: float


class TableTime(msgspec.Struct, frozen=True, tag="table", forbid_unknown_fields=True):
    """Measured steps, linear in between, the last slope beyond, the first value below. A mixed step pays the smaller first value once."""

    prefill: tuple[PrefillRow, ...]
    decode: tuple[DecodeRow, ...]

    def __post_init__(self) -> None:
        if not self.prefill or not self.decode:
            raise ConfigError("needs at least one prefill and one decode row", "timing table")

    def step_s(self, work: StepWork) -> float:
        prefill = self._prefill_s(work.prefill_tokens) if work.prefill_tokens else 0.0
        decode = self._decode_s(work.batch, work.context_tokens / work.batch) if work.batch else 0.0
        shared = min(self._prefill_s(0), self._decode_s(0, 0)) if work.prefill_tokens and work.batch else 0.0
        return prefill + decode - shared

    def _prefill_s(self, tokens: float) -> float:
        return interpolate([(row.tokens, row.seconds) for row in self.prefill], tokens)

    def _decode_s(self, batch: float, context_tokens: float) -> float:
        by_batch: dict[int, list[tuple[float, float]]] = {}
        for row in self.decode:
            by_batch.setdefault(row.batch, []).append((row.context_tokens, row.seconds))
        return interpolate([(size, interpolate(points, context_tokens)) for size, points in by_batch.items()], batch)


Timing = ConstantTime | PolynomialTime | TableTime


def interpolate(points: Iterable[tuple[float, float]], x: float) -> float:
    """The value at ``x`` of the line through ``points`` (x, y), in any order: first y below them, last slope beyond, never below 0."""
    ordered = sorted(dict(points).items())
    if x <= ordered[0][0] or len(ordered) == 1:
        return ordered[0][1]
    right = min(bisect_left(ordered, (x, float("-inf"))), len(ordered) - 1)
    (x0, y0), (x1, y1) = ordered[right - 1], ordered[right]
    return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


def load_table(path: Path) -> TableTime:
    """Reads a CSV file with the columns phase (prefill or decode), tokens, batch, context_tokens, seconds.

    A prefill row leaves batch and context_tokens empty, a decode row leaves tokens empty. Raises ConfigError naming the line.
    """
    prefill: list[PrefillRow] = []
    decode: list[DecodeRow] = []
    with path.open(newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            try:
                if row["phase"] == "prefill":
                    prefill.append(PrefillRow(int(row["tokens"]), float(row["seconds"])))
                elif row["phase"] == "decode":
                    decode.append(DecodeRow(int(row["batch"]), int(row["context_tokens"]), float(row["seconds"])))
                else:
                    raise ConfigError("phase must be prefill or decode", f"{path}:{line}")
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"cannot be read: {error}", f"{path}:{line}") from error
    return TableTime(prefill=tuple(prefill), decode=tuple(decode))
