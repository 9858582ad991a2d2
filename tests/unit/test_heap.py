"""What is loaded is not looked through by the collector, while it is and afterwards; what comes later is."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from core import heap


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_the_collector_rests() -> None:
    with heap.loading():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_is_loaded_stays() -> None:
    before = gc.get_freeze_count()
    with heap.loading():
        loaded = [[number] for number in range(1000)]
    assert gc.get_freeze_count() - before >= len(loaded)


def test_what_comes_later_is_collected() -> None:
    with heap.loading():
        pass
    later = weakref.ref(Ring())
    gc.collect()
    assert later() is None


def test_the_collector_works_on_when_loading_fails() -> None:
    with pytest.raises(ImportError), heap.loading():
        raise ImportError
    assert gc.isenabled()
