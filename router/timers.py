"""Doing something later: passed in, so that tests need not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """Something that will happen."""

    def cancel(self) -> None:
        """It will not. No error when it has happened already."""


Later = Callable[[float, Callable[[], None]], Timer]
"""``later(seconds, what)``."""


def on_this_loop(delay_s: float, what: Callable[[], None]) -> Timer:
    """On the running event loop."""
    return asyncio.get_running_loop().call_later(delay_s, what)
