"""One Baton for all tests in here, clients of it and of the reference, and the rule that no test leaves anything behind in Baton."""

from __future__ import annotations

import time
from collections.abc import Iterator

import openai
import pytest

from tests.e2e.answers import client_of
from tests.support.baton_process import ARGS, BatonServer, baton_up
from tests.support.processes import wait_until
from tests.support.reference_server import ReferenceServer

LIMIT_S = 15.0
QUIET_S = 1.5
"""The controller asks each worker twice a second: what it says for longer than that is no old news."""


@pytest.fixture(scope="package")
def baton() -> Iterator[BatonServer]:
    """One prefill and one decode worker with real engines. Nothing of it may be left when it has ended."""
    with baton_up() as server:
        yield server


@pytest.fixture(scope="package")
def ours(baton: BatonServer) -> Iterator[openai.OpenAI]:
    """The official client of Baton."""
    with client_of(baton.url) as client:
        yield client


@pytest.fixture(scope="package")
def theirs(reference: ReferenceServer) -> Iterator[openai.OpenAI]:
    """The official client of the reference."""
    with client_of(reference.url) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def serves(request: pytest.FixtureRequest, baton: BatonServer) -> None:
    """A module that wants another configuration than most has it as ``SERVED``."""
    baton.deploy(getattr(request.module, "SERVED", ARGS))


@pytest.fixture(scope="module", autouse=True)
def nothing_left(serves: None, baton: BatonServer) -> Iterator[None]:
    """After each module every block is free, and no request, leg or lease is left: on the engines, and in the router's books.

    Leases of this Baton outlast the run, so nothing is freed by waiting.
    """
    yield
    wait_until(Quiet(baton), LIMIT_S, "nothing is held")


@pytest.fixture(autouse=True)
def nothing_known_to_be_left(baton: BatonServer) -> Iterator[None]:
    """After each test the router has nothing, and nobody has told of anything. Told it is late: hence the above."""
    yield
    wait_until(lambda: not baton.held(), LIMIT_S, "nothing is held")


@pytest.fixture
def nothing_left_by_each(baton: BatonServer) -> Iterator[None]:
    """For tests that leave in the middle: what they left might else have ended by itself by the end of the module."""
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
