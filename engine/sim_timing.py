"""How long one engine step takes: constant, a polynomial, a measured table, one known by name, or a roofline."""

from __future__ import annotations

from functools import cached_property

import msgspec

from core.errors import ConfigError
from core.step_model import StepModel, StepWork
from engine.performance.registry import NamedStepTime, timing_by_name
from engine.performance.roofline.named import RooflineTime
from engine.performance.table import TableTime


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


class NamedTime(msgspec.Struct, frozen=True, dict=True, tag="named", forbid_unknown_fields=True):
    """One of the step times that come with Baton (docs/simulator.md lists them). Raises ConfigError for an unknown name."""

    name: str

    def __post_init__(self) -> None:
        timing_by_name(self.name)

    def step_s(self, work: StepWork) -> float:
        return self._timing.step_s(work)

    @cached_property
    def _timing(self) -> NamedStepTime:
        return timing_by_name(self.name)


Timing = ConstantTime | PolynomialTime | TableTime | NamedTime | RooflineTime
