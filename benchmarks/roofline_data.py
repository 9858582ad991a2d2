"""What the roofline is held against: step times by GPU and model, and whole deployments of vLLM."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec

from engine.performance.roofline.calibrate import Measured
from engine.performance.roofline.find_model import find_model
from engine.performance.roofline.hardware import find_hardware
from engine.performance.roofline.layout import Layout
from engine.performance.roofline.precision import Precision
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Chunk, Step
from engine.performance.sources import rows_by_engine

_DEPLOYMENTS = Path(__file__).parent / "data" / "vllm_deployments.csv"


class Sample(msgspec.Struct, frozen=True):
    """One measurement and where it belongs."""

    gpu: str
    model: str
    group: str
    """``prefill`` or ``decode``; of deployments, the precision."""
    measured: Measured


class _Deployment(msgspec.Struct, frozen=True):
    """A row of the file; its README says what each is."""

    gpu: str
    model: str
    precision: str
    tp: int
    ep: int
    input_tokens: int
    output_tokens: int
    concurrency: int
    ttft_ms: float
    tpot_ms: float
    vllm: str

    @property
    def measured(self) -> Measured:
        """Time per output token at a steady concurrency: a decode step of all, and the share of the others' prompts in it. While a
        request makes its ``output_tokens``, each of the others comes by with one prompt."""
        setup = Setup(find_model(self.model), Layout(self.tp, 1, self.ep), Precision.of(self.precision) if self.precision else None)
        context = self.input_tokens + self.output_tokens / 2
        steps = (
            (1.0, Step((), self.concurrency, self.concurrency * context)),
            ((self.concurrency - 1) / self.output_tokens, Step((Chunk(self.input_tokens),))),
        )
        return Measured(setup, find_hardware(self.gpu), steps, self.tpot_ms / 1e3)


def tables(file: str) -> list[Sample]:
    """The rows of one of the step time tables that come with Baton."""
    samples = []
    for rows in rows_by_engine(file).values():
        setup, hardware = Setup(find_model(rows[0].model), Layout(rows[0].tp)), find_hardware(rows[0].gpu)
        for row in rows:
            step = Step((), row.batch, row.batch * row.tokens)
            if row.phase == "prefill":
                step = Step((Chunk(row.tokens, 0, row.batch),))
            samples.append(Sample(row.gpu, row.model, row.phase, Measured(setup, hardware, ((1.0, step),), row.ms / 1e3)))
    return samples


def deployments() -> list[Sample]:
    """Times per output token of vLLM under load."""
    with _DEPLOYMENTS.open(newline="") as lines:
        rows = [msgspec.convert(record, _Deployment, strict=False) for record in csv.DictReader(lines)]
    return [Sample(row.gpu, row.model, row.precision or "as published", row.measured) for row in rows]
