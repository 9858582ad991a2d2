"""Progress for people: one line per thing that happened, each with the seconds since the beginning; a moving line meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO


class Progress:
    """Prints ``say``'s lines. Between them, on a terminal, the last line of the screen shows that time passes."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._waiting = ""
        self._live = stream.isatty()
        self._ended = threading.Event()
        if self._live:
            threading.Thread(target=self._tick, daemon=True).start()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Something happened."""
        with self._lock:
            self._clear()
            print(f"{self.elapsed_s:6.1f} s  {text}", file=self._stream, flush=True)

    def wait_for(self, what: str) -> None:
        """What is being waited for now; empty: nothing."""
        self._waiting = what

    def end(self) -> None:
        """No more progress: leaves the screen clean."""
        self._waiting = ""
        self._ended.set()
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def _tick(self) -> None:
        while not self._ended.wait(0.5):
            with self._lock:
                if self._waiting:
                    print(f"\r\x1b[K{self.elapsed_s:6.1f} s  … {self._waiting}", end="", file=self._stream, flush=True)
