"""Traffic that is made up, from a few numbers of what it is to be like. ``deploy/synthetic_words.py`` reads them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError
from simulation.traces import MOONCAKE_BLOCK_TOKENS, Trace, TraceRequest, trace_of

_MOST_REQUESTS = 10_000_000
_MOST_TOKENS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """Poisson arrivals; lengths are gamma-distributed, half as wide as exponential ones. Raises ValueError that says the rule."""

    rate: float
    """Requests per second."""
    isl: int
    """Mean prompt tokens."""
    osl: int
    """Mean output tokens."""
    seconds: float
    hit: float = 0.0
    """Part of each prompt that one of ``prefixes`` beginnings has: in the long run, the share found in caches."""
    prefixes: int = 32
    burst: float = 1.0
    """The rate is so many times as high ..."""
    burst_at: float = 0.0
    """... from here on ..."""
    burst_for: float = 0.0
    """... for so many seconds."""

    def __post_init__(self) -> None:
        for name in ("rate", "isl", "osl", "seconds", "prefixes", "burst"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be above 0, and finite")
        if not 0 <= self.hit < 1:
            raise ValueError("`hit` must be at least 0 and below 1")
        if self.burst != 1.0 and self.burst_for <= 0:
            raise ValueError("`burst` needs `burst_for`, its seconds, and perhaps `burst_at`")
        if max(self.isl, self.osl) > _MOST_TOKENS:
            raise ValueError(f"`isl` and `osl` must be at most {_MOST_TOKENS:,}")
        # All of them are made before the first is simulated.
        requests = self.rate * (self.seconds + max(0.0, self.burst - 1.0) * min(self.burst_for, self.seconds))
        if requests > _MOST_REQUESTS:
            raise ValueError(f"this is some {requests:,.0f} requests, and must be at most {_MOST_REQUESTS:,}")

    def trace(self, rng: random.Random) -> Trace:
        """Raises ConfigError if no request comes in that time."""
        requests, most, at_s, unseen = [], self.rate * max(1.0, self.burst), 0.0, self.prefixes << 20
        while (at_s := at_s + rng.expovariate(most)) < self.seconds:
            if rng.random() * most >= self._rate(at_s):
                continue
            prompt, output = (1 + round(rng.gammavariate(4.0, mean / 4.0)) for mean in (self.isl, self.osl))
            shared = round(prompt * self.hit / MOONCAKE_BLOCK_TOKENS)
            first = rng.randrange(self.prefixes) << 20
            own = max(0, -(-prompt // MOONCAKE_BLOCK_TOKENS) - shared) if self.hit else 0
            requests.append(TraceRequest(at_s, prompt, output, (*range(first, first + shared), *range(unseen, unseen + own))))
            unseen += own
        if not requests:
            raise ConfigError(f"no request came in {self.seconds:g} s at {self.rate:g} per second; make it longer", "--synthetic")
        return trace_of(Path("synthetic"), requests, MOONCAKE_BLOCK_TOKENS)

    def _rate(self, at_s: float) -> float:
        return self.rate * (self.burst if self.burst_at <= at_s < self.burst_at + self.burst_for else 1.0)
