"""Names of KV blocks that routers and workers agree on, whatever the engine's own hashes are: 64 bits for a block and all before it.

A key is a sum modulo 2^64 over the blocks so far: a block's tokens by secret weights, all of that by a secret weight of the block's
place. Sums, because numpy makes the 2,048 keys of a long prompt at once; weights for each place, because a polynomial modulo 2^64
collides for certain token sequences (Thue-Morse) whatever its base. Who does not know the weights finds two prompts with one key by
luck only, below 2^-38 a pair for vocabularies up to a million (multilinear hashing; Lemire and Kaser, "Strongly universal string
hashing is fast", 2014). What a collision would do is mislead a prediction; tokens never depend on it.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Collection, Sequence
from typing import NewType

import numpy as np
import numpy.typing as npt

BlockKey = NewType("BlockKey", int)
"""64 bits, never negative."""

_Words = npt.NDArray[np.uint64]
_FIRST_PLACES = 1024


def seed_of(secret: str) -> bytes:
    """The seed of a cluster's keys, made from a secret all its routers and workers share; says nothing about the secret."""
    return hashlib.blake2b(secret.encode(), digest_size=32, person=b"baton blockkeys").digest()


class BlockKeys:
    """Makes the keys of blocks of one size. Equal seeds and sizes make equal keys on every machine.

    Sizes do not mix: equal tokens in blocks of another size have other keys.
    """

    def __init__(self, seed: bytes, block_size_tokens: int) -> None:
        self.block_size_tokens = block_size_tokens
        self._seed = seed
        constant, *tokens = self._words("tokens", block_size_tokens + 1)
        self._constant = np.uint64(constant)
        self._tokens: _Words = np.array(tokens, np.uint64)
        self._places = self._place_weights(_FIRST_PLACES)

    def root(self, salt: str | None = None, adapter: str | None = None) -> BlockKey:
        """What the first block of a prompt follows: prompts with another salt or LoRA adapter have no block in common."""
        named = hashlib.blake2b(self._label("root"), digest_size=8)
        for part in (salt, adapter):
            text = b"" if part is None else part.encode(errors="surrogatepass")
            named.update(b"-" if part is None else len(text).to_bytes(8, "little") + text)
        return BlockKey(int.from_bytes(named.digest(), "little"))

    def following(self, parent: BlockKey, place: int, token_ids: Sequence[int]) -> list[BlockKey]:
        """The keys of the full blocks of ``token_ids``, the first of which is block number ``place`` of its prompt, behind ``parent``."""
        blocks = len(token_ids) // self.block_size_tokens
        if place + blocks > len(self._places):
            self._places = self._place_weights(2 * (place + blocks))
        # By way of an array: three times as fast as numpy is with a list.
        tokens = np.frombuffer(array("I", token_ids), np.uint32)[: blocks * self.block_size_tokens].astype(np.uint64)
        sums = tokens.reshape(blocks, self.block_size_tokens) @ self._tokens + self._constant
        keys = np.cumsum(sums * self._places[place : place + blocks]) + np.uint64(parent)
        return keys.tolist()  # type: ignore[no-any-return]  # as Python's integers, which is what dictionaries are fast with

    def prompt(self, token_ids: Sequence[int], salt: str | None = None, adapter: str | None = None) -> list[BlockKey]:
        """The keys of a prompt's full blocks."""
        return self.following(self.root(salt, adapter), 0, token_ids)

    def _place_weights(self, places: int) -> _Words:
        """Odd, so that a weight loses nothing of what it multiplies. Those for fewer places are the first of those for more."""
        return self._words("places", places) | np.uint64(1)

    def _words(self, purpose: str, count: int) -> _Words:
        return np.frombuffer(hashlib.shake_256(self._label(purpose)).digest(8 * count), "<u8").astype(np.uint64)

    def _label(self, purpose: str) -> bytes:
        return f"{purpose} {self.block_size_tokens} ".encode() + self._seed


def pack(keys: Collection[BlockKey]) -> bytes:
    """Keys as they travel: eight bytes each, little end first."""
    return struct.pack(f"<{len(keys)}Q", *keys)


def unpack(packed: bytes) -> Sequence[BlockKey]:
    """Raises ValueError for what ``pack`` did not make."""
    if len(packed) % 8:
        raise ValueError(f"{len(packed)} bytes are no whole number of block keys")
    return struct.unpack(f"<{len(packed) // 8}Q", packed)
