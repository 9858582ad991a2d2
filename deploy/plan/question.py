"""What ``baton plan`` is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import ConfigError
from engine.performance.plan.link import LATENCY_S, Link
from engine.performance.plan.stock import Stock
from engine.performance.plan.workload import Objectives, Workload
from engine.performance.roofline.hardware import find_hardware
from simulation.traces import Trace

MOST_GPUS = 4096
"""That are looked at where nobody says how many there are."""


@dataclass(frozen=True, slots=True)
class Question:
    """A model, what there is to run it on, what is asked of it and what is promised. Raises ConfigError for what cannot be asked."""

    model: str
    gpus: Mapping[str, int | None]
    """Kinds of GPUs by name, and how many of each there are; None: as many as there are in all."""
    most_gpus: int | None
    """In all; None: as many as ``rate_per_s`` needs."""
    workload: Workload
    asked: Objectives
    rate_per_s: float | None = None
    """To be carried; None: as many as possible."""
    link_gbps: float | None = None
    """Of each GPU; None: as the slowest of the GPUs' data sheets."""
    prices_per_h: Mapping[str, float] | None = None
    """Dollars, for GPUs whose price is another than in their data sheet."""
    by_price: bool = False
    precision: str | None = None
    tps: tuple[int, ...] = (1, 2, 4, 8)
    is_calibrated: bool = True
    trace: Trace | None = None
    """What the workload was made of."""

    def __post_init__(self) -> None:
        if not self.gpus:
            raise ConfigError("say which kind of GPU there is: --gpu h100, more than once for several", "--gpu")
        for gpu in self.prices_per_h or {}:
            if gpu not in self.gpus:
                raise ConfigError(f"{gpu!r} is none of the GPUs asked about: {', '.join(self.gpus)}", "--price")
        if self.by_price:
            for gpu, price in self.prices.items():
                if not price:
                    raise ConfigError(f"nobody knows what a {gpu} costs; say --price {gpu}=DOLLARS, per hour", "--by price")
        if self.most_gpus is None and self.rate_per_s is None and None in self.gpus.values():
            raise ConfigError("say how many GPUs there are (--gpus 16), or what they have to carry (--rate 20, or --trace FILE)", "--gpus")

    @property
    def stock(self) -> Stock:
        known = [count for count in self.gpus.values() if count is not None]
        most = self.most_gpus or (sum(known) if len(known) == len(self.gpus) else MOST_GPUS)
        return Stock(most, {gpu.rpartition("#")[2]: count for gpu, count in self.gpus.items() if count is not None})

    @property
    def prices(self) -> dict[str, float]:
        """Dollars per hour, 0 where nobody knows."""
        return {gpu: (self.prices_per_h or {}).get(gpu) or find_hardware(gpu).price_per_h or 0.0 for gpu in self.gpus}

    @property
    def link(self) -> Link:
        """Between workers."""
        if self.link_gbps is not None:
            return Link(self.link_gbps * 1e9 / 8.0, LATENCY_S)
        return Link(min(find_hardware(gpu).network_bytes_per_s for gpu in self.gpus), LATENCY_S)
