"""Traces from files of any known format, which is guessed where it is not said."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from core.errors import ConfigError
from simulation.trace_rows import Row, csv_rows, json_rows, text_of
from simulation.traces import AZURE_COLUMNS, MOONCAKE_BLOCK_TOKENS, Trace, TraceRequest, azure_requests, mooncake_requests, trace_of

FORMATS = ("mooncake", "azure", "csv", "jsonl")
_HOW = (
    "mooncake: JSON lines with timestamp (ms), input_length, output_length, hash_ids; azure: CSV with TIMESTAMP, ContextTokens, "
    "GeneratedTokens; csv and jsonl: arrival_s, prompt_tokens, output_tokens, perhaps tenant, and in jsonl block_hashes of 512 tokens each"
)


_OWN = ("arrival_s", "prompt_tokens", "output_tokens", "tenant", "block_hashes")


def read_trace(path: Path, rng: random.Random, form: str | None = None) -> Trace:
    """``rng`` spreads the requests of one tick of Mooncake's over it. Raises ConfigError that says the line and what is wrong with it."""
    name, text = str(path), text_of(path)
    match form or guess(text, name):
        case "mooncake":
            requests = mooncake_requests(json_rows(text, name), rng)
        case "azure":
            requests = azure_requests(csv_rows(text, name, AZURE_COLUMNS))
        case "csv":
            requests = _own_requests(csv_rows(text, name, _OWN[:3]))
        case "jsonl":
            requests = _own_requests(json_rows(text, name))
        case other:
            raise ConfigError(f"no format is called {other!r}; known: {', '.join(FORMATS)}", "--format")
    return trace_of(path, requests, MOONCAKE_BLOCK_TOKENS)


def guess(text: str, name: str) -> str:
    """By the first line. Raises ConfigError where that is like none."""
    first = text.lstrip().partition("\n")[0]
    if not first:
        raise ConfigError(f"is empty. {_HOW}", name)
    if first.startswith("{"):
        return "mooncake" if '"input_length"' in first else "jsonl"
    columns = {column.strip() for column in first.split(",")}
    if "ContextTokens" in columns:
        return "azure"
    if "prompt_tokens" in columns:
        return "csv"
    raise ConfigError(f"its first line is like none of the known formats. {_HOW}", name)


def _own_requests(rows: Iterator[Row]) -> Iterator[TraceRequest]:
    for row in rows:
        row.only(_OWN)
        lengths = row.tokens("prompt_tokens"), row.tokens("output_tokens")
        yield TraceRequest(row.seconds("arrival_s"), *lengths, row.blocks("block_hashes"), row.text("tenant"))
