"""Where a scaler's numbers come from: one interface, two sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from autoscaler.signals import Arrived, PoolSignals, Reading, Signals, TrafficSignals
from core.errors import BatonError
from core.ids import RouterId
from core.metrics.words import ScalingInput

Routers = Callable[[], Mapping[RouterId, str]]
"""Those that are there now, each with the address at which it is scraped."""


class SignalsMissingError(BatonError):
    """Nothing can be said of clients now. The text says who is silent."""


class SignalSource(ABC):
    """Both sources read the same counters of the same routers, over the same window."""

    @abstractmethod
    async def read(self) -> Signals:
        """What clients ask and routers hold, as far as it is known; without workers.

        Takes a few seconds at the longest. Raises SignalsMissingError. Cancelling it loses nothing.
        """

    @abstractmethod
    async def close(self) -> None:
        """Ends its connections."""


def as_signals(values: Mapping[ScalingInput, float], age_s: float, latest: Iterable[Arrived] = ()) -> Signals:
    """The numbers by the names that both sources have for them, in the scaler's words; those that are missing stay so. ``latest`` only who
    looks often enough can tell."""

    def reading(name: ScalingInput) -> Reading | None:
        value = values.get(name)
        return None if value is None else Reading(value, age_s)

    traffic = TrafficSignals(
        reading(ScalingInput.ARRIVALS),
        reading(ScalingInput.NEWEST),
        reading(ScalingInput.PROMPT_TOKENS),
        reading(ScalingInput.OUTPUT_TOKENS),
        reading(ScalingInput.HIT_RATE),
        tuple(latest),
    )
    prefill = PoolSignals(reading(ScalingInput.WAITING_TOKENS), reading(ScalingInput.WAITED), reading(ScalingInput.COMPUTING))
    return Signals(traffic, prefill, PoolSignals(running=reading(ScalingInput.DECODING)))


def just_come(signals: Signals, routers: Signals | str) -> Signals:
    """With what came within the last seconds as routers themselves say it: whoever scrapes them every so often learns of it too late.
    Unchanged where they do not say, but why they do not."""
    if isinstance(routers, str):
        return signals
    newest = routers.traffic.newest_per_s or signals.traffic.newest_per_s
    return replace(signals, traffic=replace(signals.traffic, newest_per_s=newest, latest=routers.traffic.latest))


def named(signals: Signals) -> dict[ScalingInput, Reading]:
    """The same, the other way."""
    traffic, prefill, decode = signals.traffic, signals.prefill, signals.decode
    found = {
        ScalingInput.ARRIVALS: traffic.arrivals_per_s,
        ScalingInput.NEWEST: traffic.newest_per_s,
        ScalingInput.PROMPT_TOKENS: traffic.prompt_tokens,
        ScalingInput.OUTPUT_TOKENS: traffic.output_tokens,
        ScalingInput.HIT_RATE: traffic.hit_rate,
        ScalingInput.WAITING_TOKENS: prefill.queue_tokens,
        ScalingInput.WAITED: prefill.queue_age_s,
        ScalingInput.COMPUTING: prefill.running,
        ScalingInput.DECODING: decode.running,
    }
    return {name: reading for name, reading in found.items() if reading is not None}
