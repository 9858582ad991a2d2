"""Three kinds of traffic that a fixed number of workers does not suit."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from simulation.traces import Trace, TraceRequest, mooncake

BLOCK_TOKENS = 128
TRACES = Path(__file__).parents[1] / "traces"
DAY_S = 2400.0
_DAYS = 2
_DAYS_REQUESTS = 12_000
_BASE, _BURST = 0.75, 3.75
_BURST_S = (1200.0, 1800.0)
_LONG_S = 3600.0
_PROMPTS, _ANSWERS = (16_000, 300), (3000, 1800)
"""Mean prompt and output tokens before a shift and after it."""
_SHIFT_S, _SHIFTED_S = 600.0, 1500.0
_SHIFT_RATES = 2.0, 4.0


def day(seed: int) -> Trace:
    """The first 12,000 of Mooncake's conversations in their order, lengths and prefixes as they are, at times that follow two days of 40
    minutes each: four times as many requests at noon as at midnight."""
    trace = mooncake(TRACES / "mooncake_conversation.jsonl.xz", random.Random(seed)).in_blocks_of(BLOCK_TOKENS)
    requests = trace.requests[:_DAYS_REQUESTS]
    arrive = _times(lambda at_s: 1 - 0.6 * math.cos(at_s / DAY_S * 2 * math.pi), DAY_S * _DAYS, len(requests), random.Random(seed))
    return replace(trace, requests=[replace(each, arrival_s=at_s) for each, at_s in zip(requests, arrive, strict=True)])


def burst(seed: int) -> Trace:
    """Conversation-like requests; five times as many of them, from one second to the next, for ten minutes."""
    rng = random.Random(seed)
    began_s, ended_s = _BURST_S
    rate = lambda at_s: _BURST if began_s <= at_s < ended_s else _BASE  # noqa: E731
    times = _poisson(rate, _LONG_S, _BURST, rng)
    return Trace("burst", [_request(at_s, 12_000, 600, rng) for at_s in times], BLOCK_TOKENS)


def shift(seed: int) -> Trace:
    """Long prompts with short answers; then, from one request to the next, short prompts with long answers."""
    rng = random.Random(seed)
    times = _poisson(lambda at_s: _SHIFT_RATES[at_s >= _SHIFT_S], _SHIFTED_S, max(_SHIFT_RATES), rng)
    return Trace("shift", [_request(at_s, *(_PROMPTS if at_s < _SHIFT_S else _ANSWERS), rng) for at_s in times], BLOCK_TOKENS)


SCENARIOS: dict[str, Callable[[int], Trace]] = {"day": day, "burst": burst, "shift": shift}
"""By name, from a seed."""


def _request(at_s: float, prompt_tokens: int, output_tokens: int, rng: random.Random) -> TraceRequest:
    """Gamma-distributed lengths, half as wide as exponential ones; nothing is shared."""
    prompt, output = (1 + round(rng.gammavariate(4.0, mean / 4.0)) for mean in (prompt_tokens, output_tokens))
    return TraceRequest(at_s, prompt, output)


def _poisson(rate: Callable[[float], float], seconds: float, most: float, rng: random.Random) -> list[float]:
    """Arrivals at a rate that changes, by thinning."""
    times, at_s = [], rng.expovariate(most)
    while at_s < seconds:
        if rng.random() * most < rate(at_s):
            times.append(at_s)
        at_s += rng.expovariate(most)
    return times


def _times(shape: Callable[[float], float], seconds: float, count: int, rng: random.Random) -> list[float]:
    """So many arrivals, spread as ``shape`` is high."""
    grid = list(accumulate(shape(float(second)) for second in range(math.ceil(seconds))))
    return sorted(float(bisect_left(grid, rng.random() * grid[-1])) + rng.random() for _ in range(count))
