"""Single keys of a terminal, without waiting for Enter."""

from __future__ import annotations

import contextlib
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator

Pressed = Callable[[float], str]
"""Waits so many seconds at most for a key; empty: none was pressed."""


@contextlib.contextmanager
def single_keys() -> Iterator[Pressed]:
    """The terminal is as it was when this is left, however it is. Where there is none, nobody ever presses a key."""
    if not sys.stdin.isatty():
        yield _nobody
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)  # Ctrl-C goes on to be one
        yield _pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pressed(timeout_s: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], timeout_s)
    return sys.stdin.read(1) if ready else ""


def _nobody(timeout_s: float) -> str:
    time.sleep(timeout_s)
    return ""
