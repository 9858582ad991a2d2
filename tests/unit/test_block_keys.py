"""Block keys: the same everywhere, different for whatever is not the same block."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.block_keys import BlockKey, BlockKeys, pack, seed_of, unpack

SIZE = 4
KEYS = BlockKeys(b"seed", SIZE)
TOKENS = list(range(100, 132))


def test_only_full_blocks_have_keys() -> None:
    """A prompt's last tokens may fill none."""
    assert [len(KEYS.prompt(TOKENS[:count])) for count in (0, 1, 3, 4, 5, 8, 31, 32)] == [0, 0, 0, 1, 1, 2, 7, 8]


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.integers(0, 10), st.sampled_from([None, "", "a", "tenant"]))
def test_keys_can_be_made_piece_by_piece(tokens: list[int], cut: int, salt: str | None) -> None:
    """A worker, told of one block at a time, and a router, with the whole prompt, come to the same keys."""
    whole = KEYS.prompt(tokens, salt)
    cut = min(cut, len(whole))
    parent = whole[cut - 1] if cut else KEYS.root(salt)
    assert whole[:cut] + KEYS.following(parent, cut, tokens[cut * SIZE :]) == whole
    assert all(0 <= key < 2**64 for key in whole)


@pytest.mark.parametrize(
    "others",
    [
        KEYS.prompt([*TOKENS[:3], 0, *TOKENS[4:]]),
        KEYS.prompt(TOKENS, salt="tenant"),
        KEYS.prompt(TOKENS, salt=""),
        KEYS.prompt(TOKENS, adapter="tenant"),
        KEYS.prompt(TOKENS, "a", "b"),
        KEYS.prompt(TOKENS, "b", "a"),
        KEYS.prompt(TOKENS, "ab"),
        BlockKeys(b"another", SIZE).prompt(TOKENS),
        BlockKeys(b"seed", 2 * SIZE).prompt(TOKENS),
        KEYS.prompt(TOKENS[SIZE:]),
        KEYS.prompt([0] * 32),
    ],
    ids=["tokens", "salt", "empty salt", "adapter", "both", "both, exchanged", "joined", "seed", "block size", "later blocks", "zeros"],
)
def test_another_prompt_shares_no_block(others: list[BlockKey]) -> None:
    """Whatever differs in the first block, or of the whole prompt, makes all keys differ."""
    assert not set(KEYS.prompt(TOKENS)) & set(others)


def test_equal_beginnings_have_equal_keys() -> None:
    """And from the first difference on none."""
    changed = KEYS.prompt([*TOKENS[:17], 0, *TOKENS[18:]])
    assert [ours == theirs for ours, theirs in zip(KEYS.prompt(TOKENS), changed, strict=True)] == [True] * 4 + [False] * 4


def test_no_collisions_among_similar_prompts() -> None:
    """A hundred thousand blocks of few different tokens: as many keys as there are different beginnings."""
    chance = random.Random(0)
    prompts = [[chance.choice((5, 6)) if place % SIZE == 0 else 7 for place in range(SIZE * 100)] for _ in range(1000)]
    beginnings = {tuple(prompt[:end]) for prompt in prompts for end in range(SIZE, len(prompt) + 1, SIZE)}
    assert len({key for prompt in prompts for key in KEYS.prompt(prompt)}) == len(beginnings)


def test_thue_morse_sequences_do_not_collide() -> None:
    """They make any polynomial modulo 2^64 collide, whatever its base: what a client could send on purpose."""
    thue = [place.bit_count() % 2 for place in range(4096)]
    words = (thue, [1 - bit for bit in thue])
    assert len({KEYS.prompt([token for bit in word for token in [bit] * SIZE])[-1] for word in words}) == 2


def test_keys_are_the_same_in_every_process() -> None:
    """Whatever Python's own hashes are there."""
    code = "from core.block_keys import BlockKeys; print(BlockKeys(b'seed', 4).prompt(list(range(100, 132)), 's', 'a'))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert told.stdout.strip() == str(KEYS.prompt(TOKENS, "s", "a"))


def test_prompts_of_any_length() -> None:
    """More blocks than weights were made for: the earlier ones keep their keys."""
    long = [token % 50_000 for token in range(SIZE * 5000)]
    assert BlockKeys(b"seed", SIZE).prompt(long)[:1000] == BlockKeys(b"seed", SIZE).prompt(long[: SIZE * 1000])


def test_a_seed_hides_its_secret() -> None:
    """It is the same for the same secret, and not the secret."""
    assert seed_of("secret") == seed_of("secret") != seed_of("other")
    assert b"secret" not in seed_of("secret")


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_packed_keys_arrive(keys: list[int]) -> None:
    """Eight bytes each."""
    packed = pack([BlockKey(key) for key in keys])
    assert len(packed) == 8 * len(keys)
    assert list(unpack(packed)) == keys


def test_half_a_key_is_refused() -> None:
    """By an error that says so."""
    with pytest.raises(ValueError, match="9 bytes"):
        unpack(bytes(9))
