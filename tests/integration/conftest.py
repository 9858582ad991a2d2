"""What the tests of whole clusters share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster_process import Home


@pytest.fixture
def home() -> Iterator[Home]:
    """A private HOME, TMPDIR and port. Whatever a test has left running is ended on the way out."""
    home = Home()
    try:
        yield home
    finally:
        home.close()
