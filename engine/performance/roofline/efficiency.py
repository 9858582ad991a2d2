"""How near operators come to what the GPU can do: not a bit off in theory, or as measured tables say."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import msgspec
import yaml

from core.errors import ConfigError
from engine.performance.roofline.op import Kind

_CALIBRATED = Path(__file__).parent / "data" / "calibrated.yaml"


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one kind of operator."""

    compute: float = 1.0
    """Of the peak operations per second."""
    compute_8: float | None = None
    """The same for operands of 8 bits and fewer; None: no different."""
    memory: float = 1.0
    """Of the bandwidth."""
    launch_s: float = 0.0
    """Before each operator."""


class Efficiency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares by kind, and what exchanges and whole steps pay."""

    linear: Share = Share()
    experts: Share = Share()
    prefill_attention: Share = Share()
    decode_attention: Share = Share()
    elementwise: Share = Share()
    link: float = 1.0
    """Of the bandwidth between GPUs."""
    exchange_s: float = 0.0
    """Before each exchange."""
    step_s: float = 0.0
    """Before each step: scheduling, sampling, whatever is outside of operators."""
    overlap: float = math.inf
    """How well an operator computes while it reads: the p-norm of both times. 1: one after the other; infinite: the longer one."""

    def __post_init__(self) -> None:
        for kind in Kind:
            share = self.of(kind)
            for name in ("compute", "compute_8", "memory"):
                value = getattr(share, name)
                if value is not None and not 0.0 < value <= 1.0:
                    raise ConfigError("must be above 0 and at most 1", f"{kind.value}.{name}")
            if share.launch_s < 0:
                raise ConfigError("must not be below 0", f"{kind.value}.launch_s")
        if not 0.0 < self.link <= 1.0:
            raise ConfigError("must be above 0 and at most 1", "link")
        for name in ("exchange_s", "step_s"):
            if getattr(self, name) < 0:
                raise ConfigError("must not be below 0", name)
        if not self.overlap >= 1.0:
            raise ConfigError("must be at least 1", "overlap")

    @property
    def is_overlap_full(self) -> bool:
        """The shorter of both times then makes less than a hundredth of a difference, and is left out."""
        return self.overlap >= 100.0

    def of(self, kind: Kind) -> Share:
        share: Share = getattr(self, kind.value)
        return share


THEORETICAL = Efficiency()


@cache
def calibrated() -> Efficiency:
    """As fitted to the H100 and H200 tables that come with Baton; how, and how well, is in docs/performance-model.md."""
    return msgspec.convert(yaml.safe_load(_CALIBRATED.read_text()), Efficiency)
