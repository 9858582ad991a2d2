"""What a PromQL expression asks for, found with regular expressions: enough for the queries of dashboards and alerts."""

from __future__ import annotations

import re

_STRING = re.compile(r'"[^"]*"')
_LABELS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_NAME = re.compile(r"(?<![\w:$])([a-zA-Z_:][\w:]*)\b(?!\s*\()")
_WORDS = frozenset({"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"})


def metrics(expression: str) -> set[str]:
    """Names of the series it reads, as they are stored: of a histogram with ``_bucket``, ``_sum`` or ``_count``."""
    bare = _LABELS.sub(" ", _STRING.sub('""', expression))
    return {name for name in _NAME.findall(bare) if name not in _WORDS}


def selectors(expression: str) -> list[str]:
    """The same, each with its matchers."""
    names = sorted(metrics(expression), key=len, reverse=True)
    return re.findall(rf"(?<![\w:])(?:{'|'.join(map(re.escape, names))})(?![\w:])(?:\{{[^}}]*\}})?", expression)
