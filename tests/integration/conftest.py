"""What the tests of whole clusters share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.cluster_process import Home
from tests.support.mini_cluster import MiniCluster


@pytest.fixture
def home() -> Iterator[Home]:
    """A private HOME, TMPDIR and port. Whatever a test has left running is ended on the way out."""
    home = Home()
    try:
        yield home
    finally:
        home.close()


@pytest.fixture
async def cluster() -> AsyncIterator[MiniCluster]:
    """Not started, so that a test can choose its shape. Invariants are checked on the way out, then everything is closed."""
    cluster = MiniCluster()
    try:
        yield cluster
        await cluster.nothing_left()
    finally:
        await cluster.close()
