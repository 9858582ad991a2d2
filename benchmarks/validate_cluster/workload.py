"""What a deployment is asked: probes that tell how long its parts take, and open-loop loads to be right about."""

from __future__ import annotations

import itertools
import math
import random

from simulation.traces import Trace, TraceRequest

BLOCK_TOKENS = 128
_PROMPT_TOKENS = 32, 1024
_OUTPUT_TOKENS = 8, 64
_APART_S = 0.6
"""Between two probes: longer than a probe takes, so that nobody waits."""


class Blocks:
    """Names for blocks of prompts, none of them twice: nothing is ever found in a cache."""

    def __init__(self) -> None:
        self._next = itertools.count()

    def request(self, arrival_s: float, prompt_tokens: int, output_tokens: int) -> TraceRequest:
        """With a prompt of its own."""
        blocks = tuple(next(self._next) for _ in range(-(-prompt_tokens // BLOCK_TOKENS)))
        return TraceRequest(arrival_s, prompt_tokens, output_tokens, blocks)


def prompts_alone(blocks: Blocks) -> Trace:
    """One after the other, short and long, each followed by three tokens."""
    lengths = [tokens for tokens in (32, 96, 200, 400, 700, 1024) for _ in range(4)]
    return _trace("prompts", [blocks.request(number * _APART_S, tokens, 4) for number, tokens in enumerate(lengths)])


def together(blocks: Blocks, batch: int, prompt_tokens: int) -> Trace:
    """So many at once, which then decode side by side."""
    return _trace("together", [blocks.request(0.0, prompt_tokens, 40) for _ in range(batch)])


def open_loop(blocks: Blocks, rng: random.Random, requests: int, per_s: float) -> Trace:
    """At random times (Poisson); lengths of prompts and answers spread evenly over their logarithm."""
    times_s = itertools.accumulate(rng.expovariate(per_s) for _ in range(requests))
    return _trace("load", [blocks.request(at_s, _drawn(rng, *_PROMPT_TOKENS), _drawn(rng, *_OUTPUT_TOKENS)) for at_s in times_s])


def _drawn(rng: random.Random, least: int, most: int) -> int:
    return round(least * math.pow(most / least, rng.random()))


def _trace(name: str, requests: list[TraceRequest]) -> Trace:
    return Trace(name, requests, BLOCK_TOKENS)
