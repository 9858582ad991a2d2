"""How large a structured-output constraint may be: an engine compiles it, and walks it for every token of everybody's step.

Measured with xgrammar on a vocabulary of 4096 (one core): an object of 500 optional properties compiles in 0.8 s, one of 2000 in
28 s; a regex of 32 nested stars costs 4 ms per token, one of 200 four seconds; one of 100 optional groups in a row 15 ms, of 500
half a second. Compiling has a thread of its own, the walk has not: a step waits for it, with every request in it.

The router checks a constraint with the same libraries before it goes out. There llguidance unrolls the items of arrays: a schema
of fifty bytes with ``minItems: 1000000000000`` takes 1.5 GB a second until the router is killed; a million take 4 seconds.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from router.request_body import DEEPEST, NotServableError, is_deeper_than

MAX_BYTES = 64 * 1024
MAX_TOOLS_BYTES = 512 * 1024
"""Tools are text in the prompt first of all, and only the one that is called constrains."""
MAX_PROPERTIES = 512
"""Of one object."""
MAX_PATTERN = 1024
MAX_GRAMMAR = 4096
MAX_ITEMS = 20_000
"""The sum of all ``minItems`` and ``maxItems``."""
DEEPEST_GROUP = 32
"""Parentheses within parentheses, in a regex or a grammar."""

_PATTERNS = {"regex", "pattern", "whitespace_pattern"}
_GRAMMARS = {"grammar", "definition"}
_JSON_TEXTS = {"json", "structural_tag"}


def check_constraint(field: str, value: msgspec.Raw) -> None:
    """Raises NotServableError when ``value``, the JSON of a request's field, is a constraint that would hold up others."""
    limit = MAX_TOOLS_BYTES if field == "tools" else MAX_BYTES
    if len(bytes(value)) > limit:
        raise NotServableError(f"`{field}` is larger than {limit} bytes")
    try:
        given = json.loads(bytes(value))
    except ValueError:
        return  # numbers of thousands of digits; the server's parser refuses them, too
    if field == "structured_outputs" and not isinstance(given, dict | None):
        raise NotServableError(f"`{field}` has to be an object")
    _check(field, given)


def _check(field: str, value: Any) -> None:
    pending: list[Any] = [value]
    items = 0.0
    while pending:  # not recursive: what is inside may be JSON in a string, as deep as that allows
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        if not isinstance(item, dict):
            continue
        for name, inner in item.items():
            if isinstance(inner, dict):
                if name in {"properties", "patternProperties"} and len(inner) > MAX_PROPERTIES:
                    raise NotServableError(f"`{field}` has an object of more than {MAX_PROPERTIES} properties")
                if name == "patternProperties":
                    for pattern in inner:
                        _check_groups(field, name, pattern, MAX_PATTERN)
                pending.append(inner)
            elif isinstance(inner, list):
                pending.append(inner)
            elif isinstance(inner, int | float) and name in {"minItems", "maxItems"}:
                items += abs(inner)
                if items > MAX_ITEMS:
                    raise NotServableError(f"`{field}` has arrays of more than {MAX_ITEMS} items, all `minItems` and `maxItems` together")
            elif isinstance(inner, str):
                if name in _PATTERNS:
                    _check_groups(field, name, inner, MAX_PATTERN)
                elif name in _GRAMMARS:
                    _check_groups(field, name, inner, MAX_GRAMMAR)
                elif name in _JSON_TEXTS:
                    pending.append(_inside(field, inner))


def _check_groups(field: str, name: str, text: str, longest: int) -> None:
    if len(text) > longest:
        raise NotServableError(f"`{field}` has a `{name}` longer than {longest} characters")
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth > DEEPEST_GROUP:
            raise NotServableError(f"`{field}` has a `{name}` with more than {DEEPEST_GROUP} groups inside each other")


def _inside(field: str, text: str) -> Any:
    if is_deeper_than(DEEPEST, text.encode(errors="replace")):
        raise NotServableError(f"`{field}` nests deeper than {DEEPEST} levels")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # the server says what is wrong with it
