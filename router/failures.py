"""Why requests were given up, kept until their clients are told."""

from __future__ import annotations

from collections import OrderedDict

from router.instructions import Fail

_KEPT = 10_000


class Failures:
    """By the id the client knows. The oldest are forgotten: their clients left before they could be told."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, Fail] = OrderedDict()

    def put(self, client_request: str, fail: Fail) -> None:
        """The newest of a client's request counts."""
        self._failures[client_request] = fail
        while len(self._failures) > _KEPT:
            self._failures.popitem(last=False)

    def take(self, client_request: str) -> Fail | None:
        """Once."""
        return self._failures.pop(client_request, None)
