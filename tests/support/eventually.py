"""Waiting for a condition, with a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from inspect import isawaitable


async def assert_eventually(check: Callable[[], object], limit_s: float = 10.0, what: str = "") -> None:
    """Returns as soon as ``check`` returns something true; fails after ``limit_s``, naming ``what`` and the last answer.

    ``check`` may be a coroutine function.
    """
    deadline = time.monotonic() + limit_s
    while not (answer := await _answer(check)):
        assert time.monotonic() < deadline, f"after {limit_s} s still not: {what or check} (last answer: {answer!r})"
        await asyncio.sleep(0.002)


async def _answer(check: Callable[[], object]) -> object:
    answer = check()
    return await answer if isawaitable(answer) else answer
