"""What a scaler is told at one moment. Whoever measures says how old each number is, and leaves out what it does not know."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from autoscaler.shared_budget import Grant
from core.ids import WorkerId
from core.step_model import StepModel
from core.worker import EngineFacts, Role

NEWEST_S = 10.0
LATEST_S = (0.5, 1.0, 2.0, 4.0)


class Phase(StrEnum):
    """Where a worker is, as far as scaling cares."""

    STARTING = "starting"
    """Asked for and not ready yet, whether its process exists or not: or it would be asked for again."""
    READY = "ready"
    DRAINING = "draining"
    SLEEPING = "sleeping"
    """Loaded, holds its GPUs, and serves nobody until it is woken."""


class Reading(msgspec.Struct, frozen=True):
    """A number, and how long ago it was true."""

    value: float
    age_s: float = 0.0


class Arrived(msgspec.Struct, frozen=True):
    """What came in so many seconds up to now."""

    over_s: float
    requests: float
    prompt_tokens: float
    """Of all of them together."""


class TrafficSignals(msgspec.Struct, frozen=True):
    """What clients ask of the whole cluster. Means are over requests of the last minute or so; there are none without requests."""

    arrivals_per_s: Reading | None = None
    """Offered requests, refused ones included: they are demand, too."""
    newest_per_s: Reading | None = None
    """The same over the last ``NEWEST_S`` only: what a burst is seen by first."""
    prompt_tokens: Reading | None = None
    output_tokens: Reading | None = None
    hit_rate: Reading | None = None
    """Share of prompt tokens found in a cache."""
    latest: tuple[Arrived, ...] = ()
    """Over each of ``LATEST_S`` at whose beginning somebody looked: what changes roles at once. None where nobody looks that often."""


class PoolSignals(msgspec.Struct, frozen=True):
    """What one role has to do. A prompt that waits in a router is prefill's; a computed one that nobody has room for is decode's."""

    queue_tokens: Reading | None = None
    """Prompt tokens that wait in routers for a worker of this role."""
    queue_age_s: Reading | None = None
    """How long the first of them has waited."""
    running: Reading | None = None
    """Requests that workers of this role have taken and not ended, and those that wait for one."""


class WorkerSignal(msgspec.Struct, frozen=True):
    """One worker."""

    worker: WorkerId
    role: Role
    phase: Phase = Phase.READY
    age_s: float = 0.0
    """Since it was asked for."""
    facts: EngineFacts | None = None
    """None until it has loaded."""
    step: StepModel | None = None
    """How long its steps take, as it has measured them."""
    warm: bool = False
    """Whether that is from steps after its first seconds, in which caches are cold and kernels are compiled."""
    start_up_s: float | None = None
    """How long it took from being asked for to being ready; None where it is not ready, or was found rather than started."""
    running: int = 0
    """Requests it has now: who has few is cheap to take away."""
    outgoing: bool = False
    """Made from an older configuration: it serves until another one replaces it, and cannot be given another role, or be woken."""


class Signals(msgspec.Struct, frozen=True):
    """All of it. Workers that are gone are left out."""

    traffic: TrafficSignals = TrafficSignals()
    prefill: PoolSignals = PoolSignals()
    decode: PoolSignals = PoolSignals()
    workers: tuple[WorkerSignal, ...] = ()
    granted: Grant | None = None
    """Of a budget that models share. None: this one shares none."""

    def pool(self, role: Role) -> PoolSignals:
        """Of one role."""
        return self.prefill if role is Role.PREFILL else self.decode

    def of(self, role: Role, *phases: Phase) -> list[WorkerSignal]:
        """The workers of a role in any of these phases; in every phase, if none is named."""
        return [worker for worker in self.workers if worker.role is role and (not phases or worker.phase in phases)]


def spans_s(since_look_s: float) -> list[float]:
    """Those of ``LATEST_S`` about which something can be said by who looked so long ago; a look that is late is still one."""
    return [over_s for over_s in LATEST_S if over_s >= 0.8 * since_look_s]


def fresh(reading: Reading | None, stale_s: float) -> float | None:
    """The number, unless it is missing or too old."""
    return reading.value if reading is not None and reading.age_s <= stale_s else None


def present(workers: Iterable[WorkerSignal]) -> list[WorkerSignal]:
    """Those that serve, or will without anybody doing anything more."""
    return [worker for worker in workers if worker.phase in (Phase.STARTING, Phase.READY)]
