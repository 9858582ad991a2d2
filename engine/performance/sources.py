"""Reads the step times that come with Baton. Where they are from, and what was left out: ``data/README.md``."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec

from core.step_model import StepModel, StepWork
from engine.performance.regimes import TwoRegimeTime
from engine.performance.table import DecodeRow, PrefillRow, TableTime

_DATA = Path(__file__).parent / "data"
_OPT_MAX_TOKENS = 2048
"""The longest sequence of OPT models, which DistServe's fits are for."""


class StepRow(msgspec.Struct, frozen=True):
    """One row of a file: a prefill step computes ``batch`` prompts of ``tokens``, a decode step a token each behind ``tokens``."""

    gpu: str
    model: str
    tp: int
    phase: str
    batch: int
    tokens: int
    ms: float

    @property
    def engine(self) -> str:
        """The name of what was measured."""
        return f"{self.gpu}-{self.model}-tp{self.tp}"

    @property
    def sample(self) -> tuple[StepWork, float]:
        if self.phase == "prefill":
            return StepWork(prefill_tokens=self.batch * self.tokens, prefill_squares=self.batch * self.tokens**2), self.ms / 1e3
        return StepWork(batch=self.batch, context_tokens=self.batch * self.tokens), self.ms / 1e3


def rows_by_engine(file: str) -> dict[str, list[StepRow]]:
    """The rows of ``h100_h200.csv`` or ``splitwise.csv``."""
    engines: dict[str, list[StepRow]] = defaultdict(list)
    for record in _records(file):
        row = msgspec.convert(record, StepRow, strict=False)
        engines[row.engine].append(row)
    return engines


def table_of(rows: list[StepRow]) -> TableTime:
    """Rows as a table by tokens. Batches of prompts tell how much of a step is attention, and give rows where no single prompt does."""
    prefill = [row.sample for row in rows if row.phase == "prefill"]
    singles = {work.prefill_tokens: seconds for work, seconds in prefill if work.prefill_squares == work.prefill_tokens**2}
    square_s = _square_s(prefill, singles)
    for work, seconds in prefill:
        singles.setdefault(work.prefill_tokens, seconds + square_s * (work.prefill_tokens**2 - work.prefill_squares))
    return TableTime(
        prefill=tuple(PrefillRow(tokens, seconds) for tokens, seconds in sorted(singles.items())),
        decode=tuple(DecodeRow(row.batch, row.tokens, row.ms / 1e3) for row in rows if row.phase == "decode"),
        prefill_square_s=square_s,
    )


def _square_s(prefill: list[tuple[StepWork, float]], singles: dict[int, float]) -> float:
    """Seconds per token squared, from steps with as many tokens in one prompt as in several; least squares of relative errors."""
    above = below = 0.0
    for work, seconds in prefill:
        squares = work.prefill_tokens**2 - work.prefill_squares
        if squares and work.prefill_tokens in singles:
            above += squares * (singles[work.prefill_tokens] - seconds) / seconds**2
            below += squares**2 / seconds**2
    return max(0.0, above / below) if below else 0.0


def two_regime_times() -> dict[str, TwoRegimeTime]:
    """DistServe's fits. A negative square coefficient (one fit has it) would end below 0 for long prompts: such a fit is flattened
    to a line that agrees with it at the longest prompt."""
    times = {}
    for record in _records("a100_opt.csv"):
        value = {key: float(text) / 1e3 for key, text in record.items() if key.endswith("_ms")}
        token_s, square_s = value["prefill_token_ms"], value["prefill_square_ms"]
        if square_s < 0:
            token_s, square_s = token_s + square_s * _OPT_MAX_TOKENS, 0.0
        small, large = (
            StepModel(
                value["prefill_base_ms"],
                token_s,
                square_s,
                *(value[f"{size}_{term}_ms"] for term in ("base", "request", "context")),
            )
            for size in ("small", "large")
        )
        times[f"a100-{record['model']}-tp{record['tp']}"] = TwoRegimeTime(small, large, int(record["large_batch"]))
    return times


def samples_of(time: TwoRegimeTime) -> list[tuple[StepWork, float]]:
    """A grid of steps within what DistServe measured, for fitting one polynomial to both regimes."""
    works = [StepWork(prefill_tokens=n * tokens, prefill_squares=n * tokens**2) for n in (1, 4) for tokens in (64, 256, 512, 1024, 2048)]
    works += [StepWork(batch=n, context_tokens=n * tokens) for n in (1, 8, 32, 64, 128, 256) for tokens in (128, 512, 1024, 2048)]
    return [(work, time.step_s(work)) for work in works]


def _records(file: str) -> Iterator[dict[str, str]]:
    with (_DATA / file).open(newline="") as lines:
        yield from csv.DictReader(lines)
