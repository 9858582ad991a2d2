"""What is asked of both pools now, from the signals; or why that cannot be said."""

from __future__ import annotations

import math

import msgspec

from autoscaler.capacity import Shape
from autoscaler.signals import NEWEST_S, Reading, Signals, fresh
from core.worker import Role

UNSEEN_OUTPUT_TOKENS = 256.0
"""An answer's, while none has ended."""
_CHANCE = 4.5
"""Deviations of a Poisson count by which the newest arrivals have to be more than the usual ones to be a burst."""


class Means(msgspec.Struct, frozen=True):
    """A mean request, as far as known. Remembered: where nobody asks, or no answer ends for a while, nobody measures."""

    prompt_tokens: float | None = None
    output_tokens: float | None = None
    hit_rate: float = 0.0

    @property
    def shape(self) -> Shape | None:
        """None until prompts have been seen. Until an answer has ended its length is a guess: whoever waited for it would not grow while
        the first long answers fill a cluster."""
        if self.prompt_tokens is None:
            return None
        output_tokens = UNSEEN_OUTPUT_TOKENS if self.output_tokens is None else self.output_tokens
        return Shape(self.prompt_tokens, self.prompt_tokens * self.hit_rate, output_tokens)

    def seen(self, signals: Signals, stale_s: float) -> Means:
        """With those that are fresh."""
        traffic = signals.traffic
        prompt, output, hits = (fresh(reading, stale_s) for reading in (traffic.prompt_tokens, traffic.output_tokens, traffic.hit_rate))
        return Means(
            prompt or self.prompt_tokens,
            output or self.output_tokens,
            self.hit_rate if hits is None else min(1.0, max(0.0, hits)),
        )


class Demand(msgspec.Struct, frozen=True):
    """What is asked now."""

    requests_per_s: float
    backlog_tokens: float
    """Prompt tokens that wait, cached ones among them."""
    waited_s: float
    """How long the first of them has."""
    running: float
    """Requests that decode, or wait to."""
    computing: float
    """Requests whose prompt is computed."""

    @property
    def any(self) -> bool:
        """Whether anybody wants anything."""
        return self.requests_per_s > 0 or self.backlog_tokens > 0 or self.running > 0 or self.computing > 0

    def tokens_per_s(self, role: Role, shape: Shape) -> float:
        """The work of a role."""
        return self.requests_per_s * shape.tokens(role)


def demand(signals: Signals, stale_s: float) -> Demand | str:
    """The demand; a text that names every number that is missing or too old, where one it takes is."""
    needed: dict[str, Reading | None] = {
        "arrivals": signals.traffic.arrivals_per_s,
        "waiting prompt tokens": signals.prefill.queue_tokens,
        "requests that decode": signals.decode.running,
    }
    wrong = [text for name, reading in needed.items() if (text := _wrong(name, reading, stale_s))]
    if wrong:
        return "; ".join(wrong)
    arrivals, queue, running = (max(0.0, reading.value) for reading in needed.values() if reading is not None)
    newest = fresh(signals.traffic.newest_per_s, stale_s)
    if newest is not None and newest - arrivals > _CHANCE * math.sqrt(max(arrivals, 1 / NEWEST_S) / NEWEST_S):
        arrivals = newest
    age_s, computing = signals.prefill.queue_age_s, signals.prefill.running
    return Demand(arrivals, queue, fresh(age_s, stale_s) or 0.0, running, fresh(computing, stale_s) or 0.0)


def somebody_waits(signals: Signals, stale_s: float) -> bool:
    """Whether that much is known, whatever is not."""
    return any((fresh(reading, stale_s) or 0.0) > 0 for reading in (signals.prefill.queue_tokens, signals.traffic.arrivals_per_s))


def _wrong(name: str, reading: Reading | None, stale_s: float) -> str:
    if reading is None:
        return f"{name}: nobody says how many"
    return f"{name}: last heard {reading.age_s:.0f} s ago" if reading.age_s > stale_s else ""
