"""Following a worker's cache: whatever is lost, late or told twice on the way, the index ends up equal to what the worker has."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeVar
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster import kv_feed
from cluster.kv_feed import KVFeed
from cluster.messages import KVChanges, KVSnapshot, Pulse, WantKV
from core.block_keys import BlockKey, BlockKeys, pack, unpack
from core.ids import Epoch, WorkerId
from core.worker import WorkerLoad
from router.prefix.follower import Follower
from router.prefix.index import PrefixIndex
from tests.support.kv_events import CLEARED, message, removed, stored

W, E = WorkerId("w"), Epoch(1)
T = TypeVar("T")


def keys(*numbers: int) -> bytes:
    return pack([BlockKey(number) for number in numbers])


def pulse(sequence: int = 0) -> Pulse:
    return Pulse(E, WorkerLoad(), sequence)


def changes(sequence: int, *numbers: int, gone: tuple[int, ...] = (), cleared: bool = False) -> KVChanges:
    return KVChanges(E, sequence, cleared, keys(*numbers), keys(*gone))


def snapshot(number: int, sequence: int, *numbers: int, part: int = 0, last: bool = True) -> KVSnapshot:
    return KVSnapshot(E, number, sequence, part, last, keys(*numbers))


class Followed:
    """A follower and its index."""

    def __init__(self) -> None:
        self.index = PrefixIndex()
        self.follower = Follower(W, self.index)

    def hears(self, *messages: KVChanges | KVSnapshot | Pulse, now: float = 0.0) -> list[int]:
        """The numbers of what it asks for."""
        return [want.number for each in messages if (want := self.follower.heard(each, now)) is not None]

    @property
    def known(self) -> set[int]:
        return set(self.index.held_by(W))


@pytest.fixture
def followed() -> Followed:
    return Followed()


def test_all_is_asked_for_at_the_first_word(followed: Followed) -> None:
    """Once, however much is heard before the answer."""
    assert followed.hears(pulse(4), pulse(5), changes(6, 1)) == [1]
    assert not followed.follower.is_current


def test_changes_meanwhile_wait_for_the_answer(followed: Followed) -> None:
    """What the answer has already is not applied to it again, the rest is, in order."""
    assert followed.hears(pulse(4), changes(5, 9, gone=(1,)), changes(6, 3, gone=(2,)), changes(7, 2)) == [1]
    assert followed.hears(snapshot(1, 5, 2, last=False), changes(8, 4), snapshot(1, 5, 9, part=1)) == []
    assert followed.follower.is_current
    assert followed.known == {2, 3, 4, 9}
    assert followed.hears(changes(9, 5), pulse(9), changes(9, 6), changes(7, 7)) == []
    assert followed.known == {2, 3, 4, 5, 9}


def test_what_is_in_the_answer_is_not_applied_again(followed: Followed) -> None:
    """It may have been undone since by changes that were lost."""
    assert followed.hears(changes(4, 1), snapshot(1, 5, 2), changes(6, 3)) == [1]
    assert followed.known == {2, 3}
    assert followed.follower.is_current


@pytest.mark.parametrize(
    "missed", [[changes(7, 3)], [changes(8, 3)], [pulse(6)]], ids=["one left out", "two left out", "only a pulse knows of it"]
)
def test_after_a_gap_all_is_asked_for_again(followed: Followed, missed: list[KVChanges | Pulse]) -> None:
    """Until the answer comes, what was known counts on; then only the answer does."""
    followed.hears(pulse(), snapshot(1, 5, 1, 2))
    assert followed.hears(*missed) == [2]
    assert followed.known == {1, 2}
    assert followed.hears(snapshot(1, 9, 66), snapshot(2, 8, 4)) == []
    assert followed.known == {4}
    assert followed.follower.is_current


def test_an_answer_that_does_not_come_is_asked_for_again(followed: Followed) -> None:
    """Five seconds after its newest part."""
    assert followed.hears(pulse(), now=0.0) == [1]
    assert followed.hears(pulse(), changes(1, 1), snapshot(1, 0, 5, last=False), now=4.9) == []
    assert followed.hears(pulse(), now=9.8) == []
    assert followed.hears(pulse(), now=9.9) == [2]


def test_a_gap_behind_the_answer(followed: Followed) -> None:
    """Changes that waited and do not follow on it are as good as lost."""
    assert followed.hears(pulse(), changes(9, 4), snapshot(1, 5, 1)) == [1, 2]
    assert followed.hears(snapshot(2, 9, 4)) == []
    assert followed.known == {4}


def test_too_many_changes_wait(followed: Followed) -> None:
    """They are dropped and a later answer asked for: memory is bounded."""
    asked = followed.hears(*(changes(number, number) for number in range(1, 3000)))
    assert asked == [1, 2, 3]
    assert followed.hears(snapshot(3, 2999, 7)) == []
    assert followed.known == {7}


def test_a_lost_worker_is_forgotten_and_followed_anew(followed: Followed) -> None:
    """What it said before the connection broke is read late, and does no harm."""
    followed.hears(pulse(), snapshot(1, 5, 1, 2))
    followed.follower.lost()
    assert followed.known == set()
    assert followed.hears(changes(6, 3)) == [3]
    assert followed.hears(snapshot(1, 5, 1), snapshot(3, 7, 8), changes(8, 9)) == []
    assert followed.known == {8, 9}


def test_an_answer_that_a_break_cuts_in_two_is_none(followed: Followed) -> None:
    """Its last part is read behind the break: with those that were forgotten it would look like all there is."""
    followed.hears(pulse(5), snapshot(1, 5, 1, 2, last=False), snapshot(1, 5, 3, part=1, last=False))
    followed.follower.lost()
    assert followed.hears(snapshot(1, 5, 4, part=2)) == []
    assert not followed.follower.is_current
    assert followed.hears(pulse(5)) == [3]
    assert followed.hears(snapshot(3, 5, 1, 2, 3, 4)) == []
    assert followed.known == {1, 2, 3, 4}


class Wire:
    """A worker's feed and a router's follower, with everything between them in a test's hands."""

    def __init__(self) -> None:
        self.feed = KVFeed(E, BlockKeys(b"seed", 1), 10_000)
        self.router = Followed()
        self.down: list[KVChanges | KVSnapshot | Pulse] = []
        self.up: list[WantKV] = []
        self.now = 0.0
        self._event = itertools.count()
        self._name = itertools.count(1)
        self._blocks: list[int] = []

    def does(self, what: str, number: int) -> None:
        self.now += 0.1
        steps: dict[str, Callable[[int], object]] = {
            "engine stores": self._store,
            "engine stores a copy": self._copy,
            "engine removes": self._remove,
            "engine clears": lambda _: self._says(CLEARED),
            "engine's message is lost": lambda _: next(self._event),
            "worker tells": lambda _: self.down.extend(self.feed.take()),
            "worker pulses": lambda _: self.down.append(pulse(self.feed.sequence)),
            "worker answers": self._answer,
            "question is lost": lambda n: _taken(self.up, n),
            "message comes": self._deliver,
            "first message comes": lambda _: self._deliver(0),
            "message comes twice": lambda n: self._hear(self.down[n % len(self.down)]) if self.down else None,
            "message is lost": lambda n: _taken(self.down, n),
            "everything arrives": lambda _: self._exchange(),
            "connection breaks": lambda _: self.router.follower.lost(),
        }
        steps[what](number)

    def settle(self) -> None:
        """From now on nothing is lost or late."""
        for _ in range(4):
            self.now += 10.0
            self.down += [*self.feed.take(), pulse(self.feed.sequence)]
            self._exchange()

    @property
    def there(self) -> set[int]:
        return {key for part in self.feed.snapshot(0) for key in unpack(part.keys)}

    def _store(self, number: int) -> None:
        parent = None if number % 3 == 0 or not self._blocks else self._blocks[number % len(self._blocks)]
        names = [next(self._name) for _ in range(1 + number % 3)]
        self._blocks += names
        self._says(stored(names, [number % 5] * len(names), parent))

    def _copy(self, number: int) -> None:
        if self._blocks:
            self._says(stored([self._blocks[number % len(self._blocks)]], [0]))

    def _remove(self, number: int) -> None:
        if self._blocks:
            self._says(removed(self._blocks[number % len(self._blocks)]))

    def _says(self, event: object) -> None:
        self.feed.heard(message(next(self._event), event))  # type: ignore[arg-type]

    def _exchange(self) -> None:
        while self.down or self.up:
            self._answer(0)
            self._deliver(0)

    def _answer(self, number: int) -> None:
        for want in _taken(self.up, number):
            self.down += list(self.feed.snapshot(want.number))

    def _deliver(self, number: int) -> None:
        for told in _taken(self.down, number):
            self._hear(told)

    def _hear(self, told: KVChanges | KVSnapshot | Pulse) -> None:
        want = self.router.follower.heard(told, self.now)
        if want is not None:
            self.up.append(want)


def _taken(queue: list[T], number: int) -> list[T]:
    """One out of the queue, if there is any."""
    return [queue.pop(number % len(queue))] if queue else []


STEPS = [
    *["engine stores", "engine stores", "engine stores a copy", "engine removes", "engine removes", "engine clears"],
    *["engine's message is lost", "worker tells", "worker tells", "worker pulses", "worker answers", "worker answers", "question is lost"],
    *["message comes", "first message comes", "first message comes", "message comes twice", "message is lost", "connection breaks"],
    "everything arrives",
]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 30)), max_size=60))
@example([("worker pulses", 0), ("first message comes", 0), ("engine stores", 0), ("worker answers", 0), ("worker tells", 0)])
def test_in_the_end_the_index_is_right(steps: list[tuple[str, int]]) -> None:
    """Messages lost, late, twice, out of order, in both directions, with parts of two keys; broken connections; holes in the events."""
    with patch.object(kv_feed, "KEYS_PER_MESSAGE", 2):
        wire = Wire()
        wire.does("engine stores", 2)
        wire.settle()
        for what, number in steps:
            wire.does(what, number)
        wire.settle()
        assert wire.router.follower.is_current
        assert wire.router.known == wire.there
