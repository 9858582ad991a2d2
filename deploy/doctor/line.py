"""One line of what the doctor says."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    """It will serve, and not as well as it could, or not for as long."""
    FAIL = "fail"
    """It will not serve, or not what was asked for."""


class Line(msgspec.Struct, frozen=True):
    """``advice`` says what to do; only what is well has none."""

    check: str
    where: str
    verdict: Verdict
    found: str
    advice: str = ""


def judged(check: str, where: str, found: str, fails: Sequence[tuple[str, str]] = (), warns: Sequence[tuple[str, str]] = ()) -> Line:
    """The line of a check from what is wrong, and what to do about each. ``found`` is said where nothing is."""
    if wrong := [*fails, *warns]:
        said, advice = ("; ".join(dict.fromkeys(part)) for part in zip(*wrong, strict=True))
        return Line(check, where, Verdict.FAIL if fails else Verdict.WARN, said, advice)
    return Line(check, where, Verdict.OK, found)
