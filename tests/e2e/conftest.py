"""One Baton and one plain vLLM server for the whole run, and the rule that no test leaves anything behind in Baton."""

from __future__ import annotations

import time
from collections.abc import Iterator

import openai
import pytest

from tests.e2e.answers import client_of
from tests.support.baton_process import BatonServer, baton_up
from tests.support.processes import wait_until
from tests.support.reference_server import ReferenceServer, reference_up

LIMIT_S = 15.0
QUIET_S = 1.5
"""The controller asks each worker twice a second: what it says for longer than that is no old news."""


@pytest.fixture(scope="session")
def baton() -> Iterator[BatonServer]:
    """One prefill and one decode worker with real engines. Nothing of it may be left when it has ended."""
    with baton_up() as server:
        yield server


@pytest.fixture(scope="session")
def reference() -> Iterator[ReferenceServer]:
    """What Baton's answers have to be equal to."""
    with reference_up() as server:
        yield server


@pytest.fixture(scope="session")
def ours(baton: BatonServer) -> Iterator[openai.OpenAI]:
    """The official client of Baton."""
    with client_of(baton.url) as client:
        yield client


@pytest.fixture(scope="session")
def theirs(reference: ReferenceServer) -> Iterator[openai.OpenAI]:
    """The official client of the reference."""
    with client_of(reference.url) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_left(baton: BatonServer) -> Iterator[None]:
    """After each test every block is free, and no request, leg or lease is left: on the engines, and in the router's books.

    Leases of this Baton outlast the run, so nothing is freed by waiting.
    """
    yield
    wait_until(Quiet(baton), LIMIT_S, "nothing is held")


class Quiet:
    """True once nothing has been held for ``QUIET_S``; until then what is."""

    def __init__(self, baton: BatonServer) -> None:
        self._baton = baton
        self._since: float | None = None
        self.held: list[str] = []

    def __call__(self) -> bool:
        self.held = self._baton.held()
        now = time.monotonic()
        if self.held or self._since is None:
            self._since = now
        return not self.held and now - self._since >= QUIET_S
