"""Recorded traffic: who asked when, for how long a prompt, with which shared beginning, and how long the answer was.

Arrivals are open-loop: a request comes at its time whatever became of those before it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import ConfigError
from simulation.trace_rows import Row, csv_rows, json_rows, text_of

MOONCAKE_BLOCK_TOKENS = 512
AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE_TICK_S = 3.0
"""Mooncake's timestamps are multiples of this; a request came somewhere between one and the next."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request. ``block_hashes`` name the blocks of its prompt, each with all that is before it; the last may be partial. With another
    ``adapter`` they are other blocks, and have other names."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    block_hashes: tuple[int, ...] = ()
    tenant: str = ""
    adapter: str = ""
    """The LoRA adapter it asks for; empty: none."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival, the first at 0."""

    name: str
    requests: Sequence[TraceRequest]
    block_tokens: int
    empty: int = 0
    """Requests that were left out, as their prompt or their answer has no tokens."""

    @property
    def rate(self) -> float | None:
        """Requests per second, from the first to the last. None where all come at the same time: that is no rate."""
        last_s = self.requests[-1].arrival_s
        return (len(self.requests) - 1) / last_s if last_s > 0 else None

    def at_rate(self, rate: float, count: int | None = None) -> Trace:
        """Faster or slower as a whole: bursts stay bursts, and prefixes come back behind as many other requests as they did.

        With ``count``, the beginning of that: its own rate may be another. Raises ConfigError where there is no rate.
        """
        if self.rate is None:
            raise ConfigError(
                f"its requests all come at the same time, {len(self.requests):,} of them: no rate can be made of that", self.name
            )
        factor = self.rate / rate
        return replace(self, requests=[replace(each, arrival_s=each.arrival_s * factor) for each in self.requests[:count]])

    def in_blocks_of(self, block_tokens: int) -> Trace:
        """With full blocks only, of a whole fraction of its own size. Old number and place in it are a good name: hashes are chained."""
        parts, left = divmod(self.block_tokens, block_tokens)
        if left:
            raise ValueError(f"blocks of {self.block_tokens} tokens cannot be cut into blocks of {block_tokens}")
        return replace(self, requests=[cut(each, parts, block_tokens) for each in self.requests], block_tokens=block_tokens)


def mooncake(path: Path, rng: random.Random, *, block_tokens: int = MOONCAKE_BLOCK_TOKENS, tick_s: float = MOONCAKE_TICK_S) -> Trace:
    """A trace in Mooncake's format (JSON lines). ``rng`` spreads the requests of one tick over it; ``tick_s`` 0 leaves them."""
    return trace_of(path, mooncake_requests(json_rows(text_of(path), str(path)), rng, tick_s), block_tokens)


def mooncake_requests(rows: Iterable[Row], rng: random.Random, tick_s: float = MOONCAKE_TICK_S) -> Iterator[TraceRequest]:
    """Of lines in that format. Raises ConfigError that says which is wrong, and what."""
    for row in rows:
        arrival_s = row.seconds("timestamp", in_a_second=1000) + rng.random() * tick_s
        yield TraceRequest(arrival_s, row.tokens("input_length"), row.tokens("output_length"), row.blocks("hash_ids"))


def azure(path: Path) -> Trace:
    """A trace of Azure's (CSV: TIMESTAMP, ContextTokens, GeneratedTokens). Nothing is known of prefixes."""
    return trace_of(path, azure_requests(csv_rows(text_of(path), str(path), AZURE_COLUMNS)), MOONCAKE_BLOCK_TOKENS)


def azure_requests(rows: Iterable[Row]) -> Iterator[TraceRequest]:
    """Likewise."""
    for row in rows:
        yield TraceRequest(row.date_s("TIMESTAMP"), row.tokens("ContextTokens"), row.tokens("GeneratedTokens"))


def synthetic(rng: random.Random, *, requests: int, rate: float, prompt_tokens: int, output_tokens: int, turns: int = 1) -> Trace:
    """Poisson arrivals with exponential lengths. Every ``turns`` requests make one conversation: each prompt begins with the one before."""
    made: list[TraceRequest] = []
    now_s, block, history = 0.0, 0, 0
    hashes: tuple[int, ...] = ()
    for number in range(requests):
        now_s += rng.expovariate(rate)
        if number % turns == 0:
            history, hashes = 0, ()
        history += 1 + round(rng.expovariate(1 / prompt_tokens))
        full = history // MOONCAKE_BLOCK_TOKENS
        new = range(block, block + full - len(hashes))
        block, hashes = new.stop, hashes + tuple(new)
        made.append(TraceRequest(now_s, history, 1 + round(rng.expovariate(1 / output_tokens)), hashes))
    return trace_of(Path("synthetic"), made, MOONCAKE_BLOCK_TOKENS)


def trace_of(path: Path, requests: Iterable[TraceRequest], block_tokens: int) -> Trace:
    """In order, from 0 on, and without requests that have no tokens. Raises ConfigError where there are no others."""
    read = list(requests)
    # A prompt and an answer have at least one token each.
    ordered = sorted((each for each in read if each.prompt_tokens and each.output_tokens), key=lambda each: each.arrival_s)
    if not ordered:
        said = (
            f"all of its {len(read):,} requests were left out, as their prompt or answer has no tokens"
            if read
            else "there is no request in it"
        )
        raise ConfigError(said, str(path))
    began_s = ordered[0].arrival_s
    moved = [replace(each, arrival_s=each.arrival_s - began_s) for each in ordered]
    return Trace(path.name.split(".")[0], moved, block_tokens, len(read) - len(ordered))


def cut(request: TraceRequest, parts: int, block_tokens: int) -> TraceRequest:
    """With full blocks of ``block_tokens`` only, of which the trace's each has ``parts``."""
    full = request.prompt_tokens // block_tokens
    hashes = tuple(block * parts + part for block in request.block_hashes for part in range(parts))[:full]
    return replace(request, block_hashes=hashes)
