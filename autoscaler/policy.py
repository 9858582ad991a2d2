"""What a scaler may do, and how it goes about it. Given to it by whoever runs it."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from core.step_model import StepModel
from core.week import DAY_MINUTES, minutes_of
from core.worker import Role

_PATIENCE_S = (60.0, 300.0)
"""Of ``ScalerPolicy.patience_s``."""

ForecastName = Literal["best", "last", "trend", "seasonal"]


class Objective(msgspec.Struct, frozen=True):
    """What nine of ten requests are to get."""

    ttft_s: float
    """Time to the first token."""
    tpot_s: float
    """Time per output token after it."""

    def __post_init__(self) -> None:
        if not (self.ttft_s > 0 and self.tpot_s > 0):
            raise ValueError("both parts of an objective are more than 0 s")


class PoolLimits(msgspec.Struct, frozen=True):
    """How many workers of one role there may be."""

    min_workers: int = 1
    """0 lets the pool end when nobody asks for anything."""
    max_workers: int = 16
    gpus_per_worker: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_workers <= self.max_workers:
            raise ValueError(f"a pool has 0 <= min_workers <= max_workers; these are {self.min_workers} and {self.max_workers}")
        if not self.gpus_per_worker > 0:
            raise ValueError("a worker has some part of a GPU; on CPUs count those instead")


class Window(msgspec.Struct, frozen=True):
    """Other limits on some hours of some days: ``Window("07:30", "19:00", role=Role.DECODE, min_workers=4)``."""

    start: str
    """``HH:MM``, in ``ScalerLimits.time_zone``."""
    end: str
    """Not later than ``start``: on the day after. Then ``days`` are those on which it starts."""
    days: frozenset[int] = frozenset(range(7))
    """0 is Monday."""
    role: Role | None = None
    """None: both."""
    min_workers: int | None = None
    max_workers: int | None = None

    def __post_init__(self) -> None:
        if not self.days <= frozenset(range(7)):
            raise ValueError("days are 0 (Monday) to 6 (Sunday)")
        if not (minutes_of(self.start) < DAY_MINUTES >= minutes_of(self.end)):
            raise ValueError("a window starts before 24:00 and ends at 24:00 at the latest")


class ScalerLimits(msgspec.Struct, frozen=True):
    """How far a scaler may go. Raises ValueError where it could not even keep the minimum."""

    prefill: PoolLimits = PoolLimits()
    decode: PoolLimits = PoolLimits()
    budget_gpus: float | None = None
    """For both pools together, sleeping and leaving workers included. None: whatever the pools' own limits allow."""
    windows: tuple[Window, ...] = ()
    """Of several that hold, the last one that says something says it."""
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        least = sum(pool.min_workers * pool.gpus_per_worker for pool in (self.prefill, self.decode))
        if least > self.budget:
            raise ValueError(f"the minimum of both pools needs {least:g} GPUs, and the budget is {self.budget:g}")

    @property
    def budget(self) -> float:
        """A number in any case."""
        return math.inf if self.budget_gpus is None else self.budget_gpus

    @property
    def alike(self) -> bool:
        """Whether workers of both roles have the same GPUs, so that one can do for the other."""
        return self.prefill.gpus_per_worker == self.decode.gpus_per_worker

    def pool(self, role: Role) -> PoolLimits:
        """Of one role."""
        return self.prefill if role is Role.PREFILL else self.decode


class ScalerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How Baton's scaler decides. The defaults are meant to be kept."""

    objective: Objective
    forecast: ForecastName = "best"
    """``best``: whichever of them was the closest lately."""
    season_s: float | None = 86_400.0
    """After how long traffic repeats itself. None: it does not."""
    stale_s: float = 30.0
    """A signal older than this is not acted on."""
    start_up_s: float = 120.0
    """What a worker takes to start, until one has been seen to."""
    safety: float = 1.0
    """How many times its usual error a forecast is taken to be too low."""
    utilisation: float = 0.9
    """How busy workers are to be at most, whatever the objective would allow."""
    burstiness: float = 2.0
    """Mean of the squared coefficients of variation of the times between arrivals and of the times prompts take; 1 is Poisson's."""
    drain_s: float = 60.0
    """In how long new workers are to have served what waits when they come. Relabelled ones have the objective's time."""
    mixes: bool = True
    """Whether routers let decode workers compute prompts where that is faster, as the policy ``baton`` does. Only where workers of both
    roles are alike. Then both pools are rounded up to whole workers once."""
    relabel: bool = True
    """Whether workers may change roles. Only where those of both are alike."""
    relabel_gain: float = 0.05
    """By how much the share of the demand that both pools keep up with has to rise for workers to change roles."""
    relabel_rest_s: float = 30.0
    """No worker changes back before this."""
    shrink_margin: float = 0.05
    """A worker goes only if the others could do with so much more demand than there is."""
    shrink_after_s: float | None = None
    """And only if that was so for so long. None: as long as ``patience_s`` has it."""
    shrink_every_s: float = 30.0
    shrink_share: float = 0.3
    """Part of a pool that leaves at once; one worker at least."""
    zero_after_s: float = 600.0
    """Without any request for so long, pools whose minimum is 0 end."""
    keep_asleep: int = 0
    """So many workers that go are put to sleep instead: for engines that can, and that wake faster than they start."""
    prior: StepModel | None = None
    """How long steps probably take, until a worker has measured it."""
    dry_run: bool = False
    """Plans are to be read, not carried out."""

    def __post_init__(self) -> None:
        if not 0 < self.utilisation < 1:
            raise ValueError("utilisation is between 0 and 1, both excluded: at 1 a queue has no end")

    def patience_s(self, start_up_s: float) -> float:
        """For how long an idle worker is kept, unless that is said: as long as another one takes to start, one to five minutes.

        By then it has cost what starting another would: whatever comes, that is never more than twice what the best would have cost who
        knew it beforehand (ski rental: Karlin et al., Competitive snoopy caching, 1988).
        """
        if self.shrink_after_s is not None:
            return self.shrink_after_s
        return max(_PATIENCE_S[0], min(start_up_s, _PATIENCE_S[1]))
