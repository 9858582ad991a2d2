"""Traces from files of any known format, which is guessed where it is not said."""

from __future__ import annotations

import csv
import io
import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

from core.errors import ConfigError
from simulation.traces import MOONCAKE_BLOCK_TOKENS, Trace, TraceRequest, azure, mooncake, trace_of

FORMATS = ("mooncake", "azure", "csv", "jsonl")
_HOW = (
    "mooncake: JSON lines with timestamp (ms), input_length, output_length, hash_ids; azure: CSV with TIMESTAMP, ContextTokens, "
    "GeneratedTokens; csv and jsonl: arrival_s, prompt_tokens, output_tokens, perhaps tenant, and in jsonl block_hashes of 512 tokens each"
)


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of ``csv`` and ``jsonl``."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    tenant: str = ""
    block_hashes: tuple[int, ...] = ()


def read_trace(path: Path, rng: random.Random, form: str | None = None) -> Trace:
    """``rng`` spreads the requests of one tick of Mooncake's over it. Raises ConfigError that says the line and what is wrong with it."""
    try:
        packed = path.read_bytes()
        text = (lzma.decompress(packed) if path.suffix == ".xz" else packed).decode("utf-8")
    except (OSError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise ConfigError(f"cannot be read: {error}", str(path)) from None
    form = form or guess(text, str(path))
    try:
        match form:
            case "mooncake":
                return mooncake(path, rng)
            case "azure":
                return azure(path)
            case "csv":
                return trace_of(path, _rows(csv.DictReader(io.StringIO(text)), str(path), 2), MOONCAKE_BLOCK_TOKENS)
            case "jsonl":
                return trace_of(path, _rows(_objects(text, str(path)), str(path), 1), MOONCAKE_BLOCK_TOKENS)
    except (KeyError, ValueError, TypeError) as error:
        said = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"is not as {form} traces are: {said}. {_HOW}", str(path)) from None
    raise ConfigError(f"no format is called {form!r}; known: {', '.join(FORMATS)}", "--format")


def guess(text: str, name: str) -> str:
    """By the first line. Raises ConfigError where that is like none."""
    first = text.lstrip("\ufeff").partition("\n")[0]
    if first.startswith("{"):
        return "mooncake" if '"input_length"' in first else "jsonl"
    columns = {column.strip() for column in first.split(",")}
    if "ContextTokens" in columns:
        return "azure"
    if "prompt_tokens" in columns:
        return "csv"
    raise ConfigError(f"its first line is like none of the known formats. {_HOW}", name)


def _objects(text: str, name: str) -> Iterator[object]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ConfigError(f"is no JSON: {error}", f"{name}:{number}") from None


def _rows(rows: Iterator[object], name: str, first_line: int) -> Iterator[TraceRequest]:
    for number, row in enumerate(rows, start=first_line):
        try:
            read = msgspec.convert(row, _Row, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{error}; it takes {', '.join(_Row.__struct_fields__)}", f"{name}:{number}") from None
        yield TraceRequest(read.arrival_s, read.prompt_tokens, read.output_tokens, read.block_hashes, read.tenant)
