"""The section ``autoscaling``: how many workers there may be, what they are sized for, and where the numbers come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from core.section import Section
from core.week import DAY_MINUTES, holds, minutes_of
from core.worker import Role

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
EVERY_DAY: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ClockTime = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
"""``HH:MM``. In quotes: YAML reads some of these as numbers."""
EndTime = Annotated[str, Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$")]


class PoolRange(Section):
    """How many workers one pool may have."""

    min: int = Field(default=1, ge=0)
    """Never fewer. 0 lets the pool end when nobody has asked for anything for ``zero_after_s``."""
    max: int = Field(default=16, ge=1)
    """Never more."""

    @model_validator(mode="after")
    def _in_order(self) -> PoolRange:
        if self.min > self.max:
            raise ValueError(f"`min` is at most `max`; they are {self.min} and {self.max}")
        return self


class Schedule(Section):
    """Other limits on some hours of some days. Of several that hold, the last one that says something says it."""

    start: ClockTime
    """``"HH:MM"`` in ``time_zone``, in quotes."""
    end: EndTime
    """Likewise, ``"24:00"`` at the latest. Not later than ``start``: on the day after."""
    days: tuple[Day, ...] = Field(default=EVERY_DAY, min_length=1)
    """Those on which it starts."""
    pool: Role | None = None
    """``prefill`` or ``decode``. Unset: both."""
    min: int | None = Field(default=None, ge=0)
    """``min`` then."""
    max: int | None = Field(default=None, ge=0)
    """``max`` then."""

    @model_validator(mode="after")
    def _says_something(self) -> Schedule:
        if self.min is None and self.max is None:
            raise ValueError("give `min`, `max` or both: it changes nothing otherwise")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` is at most `max`; they are {self.min} and {self.max}")
        return self


class ScalingObjective(Section):
    """What nine of ten requests are to get."""

    ttft_s: float | None = Field(default=None, gt=0)
    """Time to the first token. Unset: ``objectives.ttft_s``."""
    tpot_s: float | None = Field(default=None, gt=0)
    """Time per token after it. Unset: ``objectives.tpot_s``."""


class AutoscalingConfig(Section):
    """The autoscaler. Off unless ``enabled``: each pool then has its ``count`` of workers."""

    enabled: bool = False
    """Whether the numbers of workers follow the demand. ``count`` of a pool is what it then begins with."""
    dry_run: bool = False
    """Plans are made, told and counted, and not carried out."""
    scaler: Literal["baton", "dynamo"] = "baton"
    """Who decides: Baton's own, or the published rule of NVIDIA Dynamo's planner, for comparison, which knows neither schedules nor 0."""
    interval_s: float = Field(default=0.5, ge=0.1)
    """Between two plans: a burst changes roles no sooner."""
    prometheus: str | None = Field(default=None, pattern=r"^https?://[^/\s]+")
    """URL of the Prometheus that scrapes this application, e.g. ``http://127.0.0.1:9090``. Unset: the controller asks
    the routers itself."""
    prometheus_token_env: str | None = Field(default=None, min_length=1)
    """The name of the environment variable of the controller with the bearer token that Prometheus wants. Unset: it wants none."""
    prefill: PoolRange = Field(default_factory=PoolRange)
    """The workers that compute prompts."""
    decode: PoolRange = Field(default_factory=PoolRange)
    """The workers that produce tokens."""
    gpu_budget: float | None = Field(default=None, gt=0)
    """GPUs of both pools together, those of sleeping and leaving workers included; without GPUs, CPUs. Unset: as the limits allow."""
    budget_weight: float = Field(default=1.0, ge=0.01, le=100)
    """Its share of a budget that several models have together, beside the others' weights, while they want more than there is."""
    schedules: tuple[Schedule, ...] = ()
    """Other limits at some times."""
    time_zone: str = "UTC"
    """Theirs, e.g. ``Europe/Berlin``."""
    objective: ScalingObjective = Field(default_factory=ScalingObjective)
    """What there are to be enough workers for."""
    forecast: Literal["best", "last", "trend", "seasonal"] = "best"
    """How demand is foreseen. ``best``: by whichever of the others was the closest lately."""
    season_s: float | None = Field(default=86_400.0, gt=0)
    """After how long traffic repeats itself. null: it does not, and the library for seasons, 100 MB, is not loaded."""
    window_s: float = Field(default=60.0, ge=10)
    """Over which rates and means are taken. With Prometheus: four of its scrapes at the least."""
    stale_s: float = Field(default=30.0, gt=0)
    """Numbers older than this are not acted on: the plan is then to leave everything as it is."""
    start_up_s: float = Field(default=120.0, gt=0)
    """What a worker takes to start, until one has been seen to."""
    relabel: bool = True
    """Whether workers may change roles. Only where the pools are alike, so that one can do for the other."""
    relabel_rest_s: float = Field(default=30.0, ge=0)
    """No worker changes back before this."""
    shrink_after_s: float | None = Field(default=None, ge=0)
    """A worker goes only if it could have been done without for so long. None: as long as workers take to start, 60 to 300 s."""
    shrink_every_s: float = Field(default=30.0, ge=0)
    """And only so long after the last one went."""
    zero_after_s: float = Field(default=600.0, ge=0)
    """Without any request for so long, pools whose ``min`` is 0 end."""
    keep_asleep: int = Field(default=0, ge=0)
    """So many workers that go are put to sleep instead of ended, where their engines can. They keep their GPUs."""

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"`{name}` is no time zone this machine knows; write one like `Europe/Berlin`, or `UTC`") from None
        return name

    @model_validator(mode="after")
    def _looks_often_enough(self) -> AutoscalingConfig:
        if self.enabled and self.interval_s > self.stale_s / 2:
            raise ValueError(
                f"`interval_s` is at most half of `stale_s`, or plans would know nothing of what was between them; they are "
                f"{self.interval_s:g} and {self.stale_s:g}"
            )
        return self

    @model_validator(mode="after")
    def _is_what_the_scaler_can_do(self) -> AutoscalingConfig:
        if self.scaler != "baton" and self.schedules:
            raise ValueError("`schedules` are followed by `scaler: baton` only; leave them out")
        if self.scaler != "baton" and not all(self.range(role).min for role in Role):
            raise ValueError("`min: 0` is for `scaler: baton` only; Dynamo's rule keeps a worker of each role: write `min: 1`")
        return self

    def range(self, role: Role) -> PoolRange:
        """Of one pool."""
        return self.prefill if role is Role.PREFILL else self.decode

    def least(self, price: Mapping[Role, float]) -> tuple[float, str]:
        """What both pools' ``min`` take together when they are highest, at such a price for a worker; and when that is, if not always."""
        times = [
            (day, minutes_of(clock) % DAY_MINUTES, clock) for day in range(7) for each in self.schedules for clock in (each.start, each.end)
        ]
        always = sum(self.range(role).min * price[role] for role in price)
        found = [(sum(self._min(role, day, minute) * price[role] for role in price), f"{EVERY_DAY[day]} {at}") for day, minute, at in times]
        most = max(found, default=(always, ""), key=lambda each: each[0])
        return most if most[0] > always else (always, "")

    def _min(self, role: Role, day: int, minute: int) -> int:
        """Of a pool, at a minute of a day."""
        least = self.range(role).min
        for each in self.schedules:
            if each.pool in (None, role) and holds(each.start, each.end, [EVERY_DAY.index(name) for name in each.days], day, minute):
                least = min(least, each.max if each.max is not None else least) if each.min is None else each.min
        return least
