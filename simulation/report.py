"""What came of a simulation: the struct that text, JSON and page are made from. docs/simulator.md says what each field is."""

from __future__ import annotations

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """Of seconds. All 0 where there are none."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class FaultReport(msgspec.Struct, frozen=True):
    """One of the script."""

    at_s: float
    what: str
    happened: bool
    """False: its worker was not there any more, or all was over before."""


class FaultCost(msgspec.Struct, frozen=True):
    """By how much the same run without the faults, with the same seed and trace, is better."""

    good: int
    """Requests served as promised."""
    failed: int
    """Requests that were refused or given up."""
    ttft_p99_s: float
    tpot_p99_s: float
    gpu_hours: float


class Scaling(msgspec.Struct, frozen=True):
    """What the autoscaler had done."""

    plans: int
    relabelled: int
    added: int
    drained: int


class Slice(msgspec.Struct, frozen=True):
    """A part of the run. What is said of requests is said of those that arrived in it; None: there were none."""

    at_s: float
    """Its end."""
    offered: int
    good: int
    failed: int
    ttft_p50_s: float | None
    ttft_p90_s: float | None
    ttft_p99_s: float | None
    waiting: int
    """Requests in the routers' queues at its end; likewise the next two."""
    open: int
    workers: dict[str, int]
    busy: dict[str, float]
    """Part of their time that the workers of a role spent in steps."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Depends on configuration, trace, faults and seed alone. All requests are counted, from the first to the last."""

    schema: int = 1
    """Changes when a field changes its meaning or goes."""
    model: str
    policy: str
    trace: str
    seed: int
    workers: dict[str, int]
    """At the beginning, by role."""
    routers: int
    gpus: float
    """At the beginning."""
    ttft_objective_s: float | None
    tpot_objective_s: float | None
    seconds: float
    """From the first arrival to the last."""
    offered: int
    left_out: int
    """Requests of the trace that are longer than ``max_model_len`` and were not offered."""
    empty: int
    """Requests of the trace whose prompt or answer has no tokens, likewise."""
    complete: int
    good: int
    """Complete, and as fast as is promised; without promises, complete."""
    refused: dict[str, int]
    """By reason, as ``baton_refusals_total`` has them."""
    given_up: dict[str, int]
    """Requests that had been begun, or that nobody could be asked for; by what was said."""
    carried_on: int
    """Requests under which a worker was lost, and that have their whole answer."""
    ttft_s: Spread
    tpot_s: Spread
    e2e_s: Spread
    plans: dict[str, int]
    """Requests by who served them: ``split`` over two workers, or one ``alone``."""
    hit_share: float
    """Prompt tokens found in a cache, of all of complete requests."""
    kv_bytes: int
    """Moved from worker to worker."""
    gpu_hours: float
    """From when workers are asked for to when they are gone, until the last arrival."""
    busy: dict[str, float]
    """Part of their time that workers of a role spent in steps."""
    scaling: Scaling | None
    """None: there is no autoscaler."""
    faults: list[FaultReport]
    cost: FaultCost | None
    """None: there were no faults, or the run without them was not made."""
    course: list[Slice]

    @property
    def attainment(self) -> float:
        """Good ones of those offered."""
        return self.good / self.offered if self.offered else 0.0

    @property
    def goodput_per_s(self) -> float:
        """Good requests per second."""
        return self.good / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        return self.offered - self.complete
