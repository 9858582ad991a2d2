"""The simulated KV cache."""

from engine.sim_blocks import BlockHash, BlockPool, BlocksCleared, BlocksRemoved, BlocksStored, hash_block


def stored(*hashes: int) -> BlocksStored:
    return BlocksStored([BlockHash(h) for h in hashes], None, [], None)


def test_take_gives_all_or_nothing() -> None:
    """Where fewer blocks are free than asked for, none is taken."""
    pool = BlockPool(4)
    assert pool.take(5) is None
    assert pool.free_blocks == 4
    taken = pool.take(3)
    assert taken is not None
    assert len(set(taken)) == 3
    assert pool.free_blocks == 1


def test_a_block_is_free_when_its_last_holder_drops_it() -> None:
    """Two requests with a common prefix hold its blocks together."""
    pool = BlockPool(4)
    blocks = pool.take(2) or []
    pool.store(blocks, stored(1, 2))
    pool.hold(pool.find([BlockHash(1), BlockHash(2)]))
    pool.drop(blocks)
    assert pool.free_blocks == 2
    pool.drop(blocks)
    assert pool.free_blocks == 4


def test_find_stops_at_the_first_unknown_block() -> None:
    """Only an unbroken beginning is a prefix hit."""
    pool = BlockPool(4)
    blocks = pool.take(2) or []
    pool.store(blocks, stored(1, 3))
    assert pool.find([BlockHash(1), BlockHash(2), BlockHash(3)]) == blocks[:1]


def test_freed_blocks_can_be_found_until_they_are_needed() -> None:
    """A free block keeps its content; blocks without content are given out first, then the end of the oldest prompt."""
    pool = BlockPool(4)
    blocks = pool.take(3) or []
    pool.store(blocks[:2], stored(1, 2))
    pool.drop(blocks)
    pool.take_events()
    pool.take(2)
    assert pool.find([BlockHash(1), BlockHash(2)]) == blocks[:2]
    assert pool.take_events() == []
    pool.take(1)
    assert pool.find([BlockHash(1), BlockHash(2)]) == blocks[:1]
    assert pool.take_events() == [BlocksRemoved([BlockHash(2)])]


def test_fits_counts_found_blocks_that_are_free() -> None:
    """Holding a free cached block leaves fewer for new content; holding one in use does not."""
    pool = BlockPool(4)
    blocks = pool.take(2) or []
    pool.store(blocks, stored(1, 2))
    assert pool.fits(blocks, 2)
    pool.drop(blocks)
    assert pool.fits(blocks, 2)
    assert not pool.fits(blocks, 3)


def test_copies_are_found_one_after_the_other() -> None:
    """Two requests that computed the same block at the same time have one each, and each has its own removal announced, as vLLM's."""
    pool = BlockPool(2)
    blocks = pool.take(2) or []
    pool.store(blocks[:1], stored(1))
    pool.store(blocks[1:], stored(1))
    assert pool.find([BlockHash(1)]) == blocks[:1]
    pool.drop(blocks[:1])
    pool.drop(blocks[1:])
    for left in (blocks[1:], []):
        pool.take_events()
        pool.take(1)
        assert pool.take_events() == [BlocksRemoved([BlockHash(1)])]
        assert pool.find([BlockHash(1)]) == left


def test_clear_is_refused_while_blocks_are_held() -> None:
    """A cache in use is not emptied."""
    pool = BlockPool(2)
    blocks = pool.take(1) or []
    pool.store(blocks, stored(1))
    assert not pool.clear()
    pool.drop(blocks)
    pool.take_events()
    assert pool.clear()
    assert pool.find([BlockHash(1)]) == []
    assert pool.take_events() == [BlocksCleared()]


def test_hash_depends_on_tokens_parent_and_salt() -> None:
    """Equal blocks after different prompts, or of different tenants, are different blocks."""
    first = hash_block(None, [1, 2], None)
    assert first == hash_block(None, [1, 2], None)
    others = {hash_block(None, [1, 3], None), hash_block(first, [1, 2], None), hash_block(None, [1, 2], "tenant")}
    assert len(others | {first}) == 4


def test_hash_is_the_same_in_every_process() -> None:
    """Routers compare hashes of different workers."""
    assert hash_block(None, [1, 2, 3], "salt") == 17551247800200280154
