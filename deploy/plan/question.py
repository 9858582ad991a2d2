"""What ``baton plan`` is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.plan.faults import Faults
from engine.performance.plan.link import LATENCY_S, Link
from engine.performance.plan.stock import Stock
from engine.performance.plan.workload import Objectives, Workload
from engine.performance.roofline.find_model import find_model
from engine.performance.roofline.hardware import find_hardware
from engine.performance.roofline.precision import Precision
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
        faults = Faults()
        look_at(
            faults,
            self.model,
            self.gpus,
            self.most_gpus,
            self.prices_per_h or {},
            is_rated=self.rate_per_s is not None or self.trace is not None,
            by_price=self.by_price,
            precision=self.precision,
        )
        if self.trace is not None and self.rate_per_s is None and self.most_gpus is None and None in self.gpus.values():
            said = "its requests all come at one moment, which is no rate: say how many GPUs there are (--gpus 16), or a rate (--rate 20)"
            faults.add(said, "--trace")
        mean, model = self.workload.input_tokens + self.workload.output_tokens, faults.of(find_model, self.model)
        longest = None if model is None else model.longest_tokens
        if longest is not None and mean > longest:
            said = f"{self.model} takes {longest:,} tokens, prompt and answer together; a request of {mean:,.0f} is longer"
            faults.add(said, "--isl, --osl" if self.trace is None else "--trace")
        faults.refuse()

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


def look_at(
    faults: Faults,
    model: str,
    gpus: Mapping[str, int | None],
    most_gpus: int | None,
    prices_per_h: Mapping[str, float],
    *,
    is_rated: bool,
    by_price: bool,
    precision: str | None,
) -> None:
    """Adds what cannot be asked, the model first. ``is_rated``: it is known how many requests are to be carried."""
    faults.of(find_model, model)
    if not gpus:
        faults.add("say which kind of GPU there is: --gpu h100, more than once for several", "--gpu")
    found = {gpu: faults.of(find_hardware, gpu) for gpu in gpus}
    for gpu in prices_per_h:
        if gpu not in gpus:
            faults.add(f"{gpu!r} is none of the GPUs asked about: {', '.join(gpus)}", "--price")
    if by_price:
        for gpu, hardware in found.items():
            if hardware is not None and not (prices_per_h.get(gpu) or hardware.price_per_h):
                faults.add(f"nobody knows what a {gpu} costs; say --price {gpu}=DOLLARS, per hour", "--by price")
    if most_gpus is None and not is_rated and (None in gpus.values() or not gpus):
        faults.add("say how many GPUs there are (--gpus 16), or what they have to carry (--rate 20, or --trace FILE)", "--gpus")
    if precision is not None:
        faults.of(Precision.of, precision)
