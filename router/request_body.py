"""A JSON body as bytes: how deep it nests, and what is at its top, without making objects of all of it."""

from __future__ import annotations

import json

import msgspec
import numpy as np

DEEPEST = 100
"""Levels of arrays and objects in a request. vLLM takes schemas of 64; parsers recurse, and end a process that goes too deep."""

_BRACKETS = b"[]{}"
_NEITHER_BRACKET_NOR_QUOTE = bytes(byte for byte in range(256) if byte not in _BRACKETS + b'"')
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\xff\x01\xff")  # as signed bytes: one down, one up

Top = dict[str, msgspec.Raw]
"""The values of an object by name, each still JSON."""

_decoder = msgspec.json.Decoder(Top)


class NotServableError(Exception):
    """A body that would be refused, or worse, further in. The text is for the client."""


def is_deeper_than(levels: int, body: bytes) -> bool:
    """Whether ``body`` nests deeper. Linear, without recursion; of what is no JSON it says what a parser would get to at most."""
    if body.count(b"[") + body.count(b"{") <= levels:
        return False
    # Escapes first, so that every quote that is left begins or ends a string. Then every other piece is outside of strings.
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    pieces = unescaped.translate(None, _NEITHER_BRACKET_NOR_QUOTE).split(b'"')
    steps = np.frombuffer(b"".join(pieces[::2]).translate(_STEPS), dtype=np.int8)
    return steps.size > 0 and int(np.cumsum(steps, dtype=np.int32).max()) > levels


def top_of(body: bytes) -> Top | None:
    """The object in ``body``, or None for what is no JSON at all: vLLM says that better. Raises NotServableError.

    Stricter than Python's parser, which vLLM uses: that one also takes ``NaN`` and UTF-16, and lets either pass by whoever
    looks at the bytes.
    """
    if json.detect_encoding(body) != "utf-8":
        raise NotServableError("the body has to be JSON in UTF-8, without a byte order mark")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise NotServableError(f"the body is not UTF-8 at byte {error.start}") from None
    if is_deeper_than(DEEPEST, body):
        raise NotServableError(f"the body nests deeper than {DEEPEST} levels")
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, dict):
        raise NotServableError("the body has to be a JSON object")
    raise NotServableError("the body is not valid JSON: NaN, Infinity and characters that do not exist are not part of it")
