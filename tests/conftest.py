"""What holds for all tests, and the one server that several folders compare with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.reference_server import ReferenceServer, reference_up

# How long an example takes says something of the machine, which others use too.
settings.register_profile("baton", deadline=None)
settings.load_profile("baton")


_ONE_AFTER_THE_OTHER = ("tests/e2e/", "tests/chaos/test_real.py")
"""They share a Baton or the reference, which takes a minute and some gigabytes; and real engines want the cores."""


class ByCluster(LoadScopeScheduling):
    """A file's tests share what they have started: several processes (``make test``) divide files, not tests, among them."""

    def _split_scope(self, nodeid: str) -> str:
        return "engines" if nodeid.startswith(_ONE_AFTER_THE_OTHER) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByCluster:
    """In the order in which files are found: the long ones are first."""
    config.option.loadscopereorder = False
    return ByCluster(config, log)


@pytest.fixture(scope="session")
def reference() -> Iterator[ReferenceServer]:
    """A plain vLLM server, from the first test that wants it on: what Baton's answers have to be equal to."""
    with reference_up() as server:
        yield server
