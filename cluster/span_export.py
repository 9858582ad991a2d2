"""Ended spans on their way out: a bounded queue, and a thread that sends them, so that nothing ever waits for a collector."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from core.metrics.entry import Entry
from core.metrics.tally import Counts
from core.metrics.words import SpanFate
from core.trace import Span

log = logging.getLogger(__name__)

_BATCH = 512
_GATHERS_S = 0.5
"""From the first span to its sending: others come meanwhile, and a batch costs little more than one."""
_SAYS_AGAIN_S = 60.0

Send = Callable[[Sequence[Span]], bool]
"""Sends a batch; whether it has come. May take as long as it likes, may raise anything."""


class SpanExport:
    """``put`` from one thread, that of the event loop. ``send`` is called from another one, for one batch at a time."""

    def __init__(self, send: Send, most: int = 8192, stop_sending: Callable[[], None] = lambda: None) -> None:
        """``most`` spans wait at once. ``stop_sending`` has a ``send`` under way return soon, once it is too late for it."""
        self._send = send
        self._most = most
        self._stop_sending = stop_sending
        self._waiting: deque[Span] = deque()
        self._has_some = threading.Event()
        self._closing = threading.Event()
        self._given_up = False
        self._exported = self._failed = self._dropped = 0
        self._said_s = -_SAYS_AGAIN_S
        # A daemon: a collector that does not answer must not keep a process from ending.
        self._thread = threading.Thread(target=self._run, name="baton-spans", daemon=True)
        self._thread.start()

    def put(self, spans: Sequence[Span]) -> None:
        """Takes spans to be sent. Those there is no room for are dropped, and counted."""
        room = 0 if self._closing.is_set() else max(0, self._most - len(self._waiting))
        self._waiting.extend(spans[:room])
        self._dropped += max(0, len(spans) - room)
        if room:
            self._has_some.set()

    def counts(self, entry: Entry) -> Counts:
        """What has become of spans so far, by their fate."""
        counts = Counts(entry)
        for fate, count in zip(SpanFate, (self._exported, self._dropped, self._failed), strict=True):
            counts.add(fate, by=count)
        return counts

    def close(self, within_s: float) -> None:
        """Sends what is left for as long as ``within_s``, then lets go of the rest. Blocks so long at most; twice is once."""
        self._closing.set()
        self._has_some.set()
        self._thread.join(within_s)
        self._given_up = True
        self._stop_sending()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._has_some.wait()
            self._closing.wait(_GATHERS_S)
            self._has_some.clear()
            self._send_all()
        self._send_all()
        self._failed += len(self._waiting)
        self._waiting.clear()

    def _send_all(self) -> None:
        while self._waiting and not self._given_up:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                has_come, why = self._send(batch), "the collector does not take them"
            except Exception as error:  # whatever it is, only spans are lost
                has_come, why = False, repr(error)
            if has_come:
                self._exported += len(batch)
            else:
                self._failed += len(batch)
                self._say(len(batch), why)

    def _say(self, count: int, why: str) -> None:
        """Not for every batch: a collector that is away is away for a while."""
        if time.monotonic() - self._said_s >= _SAYS_AGAIN_S:
            self._said_s = time.monotonic()
            log.warning("tracing: %d spans are lost: %s", count, why)


def no_counts(entry: Entry) -> Counts:
    """Where tracing is off: nothing, told all the same."""
    return Counts(entry, [(fate,) for fate in SpanFate])
