"""A worker's KV feed: the engine's blocks under the routers' keys, changes in batches, all of it in parts."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import kv_feed
from cluster.kv_feed import KVFeed
from cluster.messages import KVChanges
from core.block_keys import BlockKey, BlockKeys, unpack
from core.ids import Epoch
from engine.base import KVEventMessage
from engine.vllm_kv_events import KVEvent
from tests.support.kv_events import CLEARED, message, removed, stored

KEYS = BlockKeys(b"seed", 1)
E = Epoch(3)


def feed_of(*events: KVEvent, num_blocks: int = 100) -> KVFeed:
    feed = KVFeed(E, KEYS, num_blocks)
    for sequence, event in enumerate(events):
        feed.heard(message(sequence, event))
    return feed


def there(feed: KVFeed) -> set[BlockKey]:
    return {key for part in feed.snapshot(1) for key in unpack(part.keys)}


def keys(tokens: list[int], **names: Any) -> set[BlockKey]:
    return set(KEYS.prompt(tokens, **names))


IMAGE = [None, [["image", 0]], None]
AFTERWARDS: dict[str, tuple[list[KVEvent], set[BlockKey]]] = {
    "a prompt": ([stored([1, 2, 3], [5, 6, 7])], keys([5, 6, 7])),
    "and what follows it": ([stored([1, 2], [5, 6]), stored([3], [7], 2), stored([4], [8], 3)], keys([5, 6, 7, 8])),
    "two with one beginning": ([stored([1, 2], [5, 6]), stored([3], [9], 1)], keys([5, 6]) | keys([5, 9])),
    "a salt": ([stored([1, 2], [5, 6], extra_keys=[["s"], None]), stored([3], [7], 2)], keys([5, 6, 7], salt="s")),
    "an adapter": ([stored([1, 2], [5, 6], lora_name="a", extra_keys=[["a"], ["a"]])], keys([5, 6], adapter="a")),
    "up to an image": ([stored([1, 2, 3], [5, 6, 7], extra_keys=IMAGE), stored([4], [8], 3)], keys([5])),
    "removed from its end": ([stored([1, 2, 3], [5, 6, 7]), removed(3), removed(2)], keys([5])),
    "removed from its beginning": ([stored([1, 2], [5, 6]), removed(1)], keys([5, 6]) - keys([5])),
    "removed and there again": ([stored([1], [5]), removed(1), stored([1], [5])], keys([5])),
    "one of two copies removed": ([stored([1], [5]), stored([1], [5]), removed(1)], keys([5])),
    "both copies removed": ([stored([1], [5]), stored([1], [5]), removed(1), removed(1)], set()),
    "what was never there removed": ([removed(9)], set()),
    "behind something unknown": ([stored([3], [7], 2)], set()),
    "cleared": ([stored([1, 2], [5, 6]), CLEARED, stored([3], [7], 2), stored([4], [8])], keys([8])),
    "one adapter's name for two": (
        [stored([1], [5], lora_name="a", extra_keys=[["a"]]), stored([2], [5], lora_name="a", extra_keys=[["a"]]), removed(1)],
        keys([5], adapter="a"),
    ),
    "part of a block": ([stored([1], [5, 6])], set()),
}


@pytest.mark.parametrize(("events", "expected"), AFTERWARDS.values(), ids=AFTERWARDS.keys())
def test_what_is_there(events: list[KVEvent], expected: set[BlockKey]) -> None:
    """The keys a router makes of the prompts that the engine has, and no others; told as changes as well."""
    feed = feed_of(*events)
    assert there(feed) == expected
    assert {key for changes in feed.take() for key in unpack(changes.stored)} == expected


def test_changes_since_the_last_time() -> None:
    """Numbered from 1; a key that came and went is told by what is true now; nothing new, nothing told."""
    feed = feed_of(stored([1, 2], [5, 6]))
    assert feed.has_news
    [first] = feed.take()
    assert (first.epoch, first.sequence, first.cleared, set(unpack(first.stored)), first.removed) == (E, 1, False, keys([5, 6]), b"")
    assert not feed.has_news
    assert feed.take() == []
    feed.heard(message(1, removed(2), stored([2], [6], 1), stored([3], [9]), removed(3, 1)))
    [second] = feed.take()
    assert (second.sequence, feed.sequence) == (2, 2)
    assert set(unpack(second.stored)) == keys([5, 6]) - keys([5])
    assert set(unpack(second.removed)) == keys([5]) | keys([9])


def test_a_cleared_cache_is_told_first() -> None:
    """Then what was stored since, and nothing that was told before."""
    feed = feed_of(stored([1], [5]))
    feed.take()
    feed.heard(message(1, stored([2], [6]), CLEARED, stored([3], [7])))
    [changes] = feed.take()
    assert (changes.cleared, set(unpack(changes.stored)), changes.removed) == (True, keys([7]), b"")
    assert there(feed) == keys([7])


@pytest.mark.parametrize(
    "bad",
    [message(7, stored([2], [6])), KVEventMessage(1, b"\xc1"), message(0, stored([2], [6]))],
    ids=["hole", "cannot be read", "numbers begin anew"],
)
def test_after_a_hole_only_what_follows_is_known(bad: KVEventMessage) -> None:
    """Routers are told to forget the rest; what is stored behind forgotten blocks stays unknown."""
    feed = feed_of(stored([1], [5]))
    feed.take()
    feed.heard(bad)
    feed.heard(message(bad.sequence + 1, stored([3], [7], 1), stored([4], [8])))
    [changes] = feed.take()
    assert changes.cleared
    assert set(unpack(changes.stored)) == there(feed)
    assert there(feed) - keys([6]) == keys([8])


def test_more_blocks_than_there_can_be() -> None:
    """The feed has lost count of removals, so it starts anew."""
    feed = feed_of(stored([1, 2], [5, 6]), stored([3], [7]), num_blocks=2)
    assert there(feed) == set()
    feed.heard(message(2, stored([4], [8])))
    assert there(feed) == keys([8])


def test_large_changes_and_caches_are_told_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part with as many keys as one message may have, the last one marked."""
    monkeypatch.setattr(kv_feed, "KEYS_PER_MESSAGE", 2)
    feed = feed_of(stored([1, 2, 3, 4, 5], [5, 6, 7, 8, 9]))
    told = feed.take()
    assert [(changes.sequence, len(unpack(changes.stored))) for changes in told] == [(1, 2), (2, 2), (3, 1)]
    parts = list(feed.snapshot(4))
    assert [(part.number, part.sequence, part.part, part.last, len(unpack(part.keys))) for part in parts] == [
        (4, 3, 0, False, 2),
        (4, 3, 1, False, 2),
        (4, 3, 2, True, 1),
    ]
    feed.heard(message(1, CLEARED, stored([6, 7, 8], [1, 2, 3])))
    assert [changes.cleared for changes in feed.take()] == [True, False]


def test_an_empty_cache_is_one_empty_part() -> None:
    """Who asks is answered, also where events are off."""
    [part] = feed_of().snapshot(1)
    assert (part.sequence, part.part, part.last, part.keys) == (0, 0, True, b"")


def test_a_snapshot_is_of_one_moment() -> None:
    """However much changes before its last part is made."""
    feed = feed_of(stored([1, 2], [5, 6]))
    snapshot = feed.snapshot(1)
    feed.heard(message(1, CLEARED))
    assert {key for part in snapshot for key in unpack(part.keys)} == keys([5, 6])


def test_nothing_is_told_of_a_cache_that_is_cleared_empty_but_that() -> None:
    """One message, without keys."""
    feed = feed_of(CLEARED)
    assert feed.take() == [KVChanges(E, 1, cleared=True)]
