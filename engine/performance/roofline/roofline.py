"""Seconds of a step: for every operator, whichever takes longer of its operations and its bytes."""

from __future__ import annotations

from functools import cache

import msgspec

from engine.performance.roofline.efficiency import THEORETICAL, Efficiency
from engine.performance.roofline.hardware import Hardware
from engine.performance.roofline.op import Exchange, Kind, Op
from engine.performance.roofline.operators import exchanges, operators
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Step


class Timed(msgspec.Struct, frozen=True):
    """One operator or exchange of a step, in all the layers that have it."""

    name: str
    seconds: float
    bound: str
    """``compute``, ``memory`` or ``link``: what it would be faster with more of."""
    flops: float
    bytes: float


class Roofline:
    """A set-up on some hardware. A step's seconds are from its first operator to its last, through all pipeline stages: a pipeline
    that is kept full ends ``layout.pp`` steps in that time."""

    def __init__(self, setup: Setup, hardware: Hardware, efficiency: Efficiency = THEORETICAL) -> None:
        self.setup = setup
        self.hardware = hardware
        self.efficiency = efficiency
        self._rates = cache(self._peak)
        self._power, self._is_overlap_full = efficiency.overlap, efficiency.is_overlap_full

    def step_s(self, step: Step) -> float:
        """Some ten microseconds of ours."""
        seconds = self.efficiency.step_s
        for op in operators(self.setup, step):
            seconds += op.count * self.op_s(op)
        for exchange in exchanges(self.setup, step):
            seconds += exchange.count * self.exchange_s(exchange)
        return seconds

    def op_s(self, op: Op) -> float:
        """In one layer."""
        flops_per_s, bytes_per_s, launch_s = self._rates(op.kind, op.bits)
        moved = op.weight_bytes + op.load_bytes + op.store_bytes + op.kv_load_bytes + op.kv_store_bytes  # op.bytes, which costs a call
        compute, memory = op.flops / flops_per_s, moved / bytes_per_s
        less, more = (compute, memory) if compute < memory else (memory, compute)
        if less and not self._is_overlap_full:
            more *= (1.0 + (less / more) ** self._power) ** (1.0 / self._power)
        return launch_s + more

    def exchange_s(self, exchange: Exchange) -> float:
        """Once."""
        return self.efficiency.exchange_s + exchange.wire_bytes / (self.hardware.exchange_bytes_per_s(exchange.gpus) * self.efficiency.link)

    def timed(self, step: Step) -> list[Timed]:
        """Every operator with what bounds it, for reports."""
        found = []
        for op in operators(self.setup, step):
            flops_per_s, bytes_per_s, _ = self._rates(op.kind, op.bits)
            bound = "compute" if op.flops * bytes_per_s >= op.bytes * flops_per_s else "memory"
            found.append(Timed(op.name, op.count * self.op_s(op), bound, op.count * op.flops, op.count * op.bytes))
        for each in exchanges(self.setup, step):
            found.append(Timed(each.name, each.count * self.exchange_s(each), "link", 0.0, each.count * each.wire_bytes))
        return found

    def _peak(self, kind: Kind, bits: int) -> tuple[float, float, float]:
        """Operations and bytes per second that such operators reach, and the seconds before each."""
        share = self.efficiency.of(kind)
        compute = share.compute if bits > 8 or share.compute_8 is None else share.compute_8
        return self.hardware.flops(bits) * compute, self.hardware.memory_bytes_per_s * share.memory, share.launch_s
