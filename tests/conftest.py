"""What holds for all tests, and the one server that several folders compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.reference_server import ReferenceServer, reference_up

# How long an example takes says something of the machine, which others use too.
settings.register_profile("baton", deadline=None)
settings.load_profile("baton")


_TESTS = Path(__file__).parent
_ONE_AFTER_THE_OTHER = ("e2e/", "chaos/test_real.py")
"""They share a Baton or the reference, which takes a minute and some gigabytes; and real engines want the cores."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests share what they have started: several processes (``make test``) divide files, not tests, among them."""
    for item in items:
        file = item.path.relative_to(_TESTS).as_posix()
        item.add_marker(pytest.mark.xdist_group("engines" if file.startswith(_ONE_AFTER_THE_OTHER) else file))


@pytest.fixture(scope="session")
def reference() -> Iterator[ReferenceServer]:
    """A plain vLLM server, from the first test that wants it on: what Baton's answers have to be equal to."""
    with reference_up() as server:
        yield server
