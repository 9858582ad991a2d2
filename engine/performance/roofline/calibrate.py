"""Fits efficiency factors to measured step times: the factors with the least mean error, each error relative and none counted beyond 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from engine.performance.roofline.efficiency import Efficiency, Share
from engine.performance.roofline.hardware import Hardware
from engine.performance.roofline.op import Kind
from engine.performance.roofline.operators import exchanges, operators
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Step

_ROUNDS = 60
_FIRST_STRIDE, _LAST_STRIDE = 0.25, 0.005
"""Of the logarithm of a factor, from round to round."""

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class Measured(msgspec.Struct, frozen=True):
    """Steps, on what they ran, and how long they took together."""

    setup: Setup
    hardware: Hardware
    steps: tuple[tuple[float, Step], ...]
    """How many of each; shares of a step too."""
    seconds: float


class _Rows:
    """All operators of all measured steps in arrays, so that trying factors out costs a millisecond."""

    def __init__(self, measured: Sequence[Measured]) -> None:
        parts = [(index, each, times, step) for index, each in enumerate(measured) for times, step in each.steps]
        ops = [(index, each, times, op) for index, each, times, step in parts for op in operators(each.setup, step)]
        self.samples = len(measured)
        self.seconds = np.array([each.seconds for each in measured])
        self.index = np.array([index for index, _, _, _ in ops])
        self.kind = np.array([list(Kind).index(op.kind) for _, _, _, op in ops])
        self.is_narrow = np.array([op.bits <= 8 for _, _, _, op in ops])
        self.count = np.array([times * op.count for _, _, times, op in ops])
        self.compute_s = np.array([op.flops / each.hardware.flops(op.bits) for _, each, _, op in ops])
        self.memory_s = np.array([op.bytes / each.hardware.memory_bytes_per_s for _, each, _, op in ops])
        self.times = np.array([sum(times for times, _ in each.steps) for each in measured])
        sent = [(index, each, times, one) for index, each, times, step in parts for one in exchanges(each.setup, step)]
        self.sent_index = np.array([index for index, _, _, _ in sent], dtype=int)
        self.sent_count = np.array([times * one.count for _, _, times, one in sent])
        self.wire_s = np.array([one.wire_bytes / each.hardware.exchange_bytes_per_s(one.gpus) for _, each, _, one in sent])

    def predicted(self, efficiency: Efficiency) -> Array:
        shares = [efficiency.of(kind) for kind in Kind]
        wide = np.array([share.compute for share in shares])
        narrow = np.array([share.compute if share.compute_8 is None else share.compute_8 for share in shares])
        compute = self.compute_s / np.where(self.is_narrow, narrow[self.kind], wide[self.kind])
        memory = self.memory_s / np.array([share.memory for share in shares])[self.kind]
        longer, shorter = np.maximum(compute, memory), np.minimum(compute, memory)
        if not efficiency.is_overlap_full:
            longer = longer * (1.0 + (shorter / longer) ** efficiency.overlap) ** (1.0 / efficiency.overlap)
        each = longer + np.array([share.launch_s for share in shares])[self.kind]
        sent = self.wire_s / efficiency.link + efficiency.exchange_s
        total = np.bincount(self.index, self.count * each, self.samples)
        total += np.bincount(self.sent_index, self.sent_count * sent, self.samples)
        return np.asarray(total + self.times * efficiency.step_s)

    def loss(self, efficiency: Efficiency) -> float:
        errors = np.abs(self.predicted(efficiency) - self.seconds) / self.seconds
        return float(np.mean(np.minimum(errors, 1.0)))


def calibrate(measured: Sequence[Measured], start: Efficiency, free: Sequence[str]) -> Efficiency:
    """The factors named in ``free`` fitted, all others as in ``start``.

    One factor after the other is made a little larger and smaller, and what helps is kept; strides shrink. There are a dozen factors, and
    each has its own steps that tell of it, so that nothing cleverer is needed.
    """
    rows = _Rows(measured)
    values = {name: _get(start, name) for name in free}
    best, least = start, rows.loss(start)
    for index in range(_ROUNDS):
        stride = _FIRST_STRIDE * (_LAST_STRIDE / _FIRST_STRIDE) ** (index / (_ROUNDS - 1))
        for name in free:
            for factor in (np.exp(stride), np.exp(-stride)):
                tried = {**values, name: _bounded(name, values[name] * float(factor))}
                candidate = _with(start, tried)
                if (loss := rows.loss(candidate)) < least:
                    best, least, values = candidate, loss, tried
    return best


def errors(measured: Sequence[Measured], efficiency: Efficiency) -> list[float]:
    """(predicted - measured) / measured of each, in their order."""
    rows = _Rows(measured)
    return [float(error) for error in (rows.predicted(efficiency) - rows.seconds) / rows.seconds]


def _bounded(name: str, value: float) -> float:
    if name.endswith("_s"):
        return value
    if name == "overlap":
        return min(max(value, 1.0), 100.0)
    return min(value, 1.0)


def _get(efficiency: Efficiency, name: str) -> float:
    kind, _, field = name.rpartition(".")
    return float(getattr(getattr(efficiency, kind) if kind else efficiency, field))


def _with(efficiency: Efficiency, values: Mapping[str, float]) -> Efficiency:
    changes: dict[str, object] = {}
    for name, value in values.items():
        kind, _, field = name.rpartition(".")
        if kind:
            share: Share = changes.get(kind, getattr(efficiency, kind))  # type: ignore[assignment]  # only shares have a dot
            changes[kind] = msgspec.structs.replace(share, **{field: value})
        else:
            changes[field] = value
    return msgspec.structs.replace(efficiency, **changes)
