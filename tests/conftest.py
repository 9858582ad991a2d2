"""What holds for all tests, and the one server that several folders compare with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.reference_server import ReferenceServer, reference_up

# How long an example takes says something of the machine, which others use too.
settings.register_profile("baton", deadline=None)
settings.load_profile("baton")


@pytest.fixture(scope="session")
def reference() -> Iterator[ReferenceServer]:
    """A plain vLLM server, from the first test that wants it on: what Baton's answers have to be equal to."""
    with reference_up() as server:
        yield server
