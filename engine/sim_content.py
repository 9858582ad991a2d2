"""What a simulated sequence consists of: real tokens, or a length and the names of its blocks."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.sim_blocks import BlockHash, hash_block, root_of
from engine.sim_tokens import TokenRule, TokenStream


class LengthPrompt(msgspec.Struct, frozen=True):
    """A prompt of which only the length is known, and what its blocks are called: nothing as long as the prompt is ever made.

    The hashes are those of full blocks of the engine's size, in order; hashes beyond the last full block are not looked at.
    Blocks without a hash cannot be found by anybody.
    """

    tokens: int
    block_hashes: Sequence[BlockHash] = ()
    output_hashes: Sequence[BlockHash] = ()
    """Of the blocks behind the prompt's full ones: the first holds the prompt's rest and the beginning of the output."""

    def __len__(self) -> int:
        return self.tokens


class TokenContent:
    """Real tokens: each is drawn when it is due, so nobody knows before where the output ends."""

    __slots__ = ("_barred", "_barred_early", "_hashes", "_min_length", "_root", "_stream", "_tokens")

    known_end = False

    def __init__(
        self,
        rule: TokenRule,
        tokens: list[int],
        salt: str | None,
        stop_token_ids: frozenset[int],
        eos_token_id: int | None,
        min_length: int,
        adapter: str | None = None,
    ) -> None:
        """``tokens`` are the given ones; no stop token is drawn before there are ``min_length`` in all. With another LoRA ``adapter``
        other tokens are drawn."""
        self._tokens = tokens
        self._hashes: list[BlockHash] = []
        self._root = root_of(adapter, salt)
        self._stream = TokenStream(rule, [*(adapter or "").encode(), *tokens])
        self._min_length = min_length
        stops = stop_token_ids | ({eos_token_id} if eos_token_id is not None else frozenset())
        never = {rule.eos_token_id} if eos_token_id is None and rule.eos_token_id is not None else frozenset()
        self._barred = frozenset(never)
        self._barred_early = frozenset(never | stops)

    def draw(self) -> int:
        """Appends the next token."""
        token = self._stream.next(self._barred_early if len(self._tokens) < self._min_length else self._barred)
        self._stream.extend((token,))
        self._tokens.append(token)
        return token

    def hashes(self, full_blocks: int, block_size_tokens: int) -> Sequence[BlockHash]:
        """The hashes of the first ``full_blocks`` blocks; each is computed once."""
        for index in range(len(self._hashes), full_blocks):
            block = self._tokens[index * block_size_tokens : (index + 1) * block_size_tokens]
            self._hashes.append(hash_block(self._hashes[-1] if self._hashes else None, block, self._root))
        return self._hashes[:full_blocks]

    def token_ids(self, start: int, end: int) -> Sequence[int]:
        return self._tokens[start:end]


class LengthContent:
    """No tokens. The output ends where its length says, so that many steps can be told at once."""

    __slots__ = ("_hashes",)

    known_end = True

    def __init__(self, prompt: LengthPrompt, block_size_tokens: int) -> None:
        self._hashes = (*prompt.block_hashes[: prompt.tokens // block_size_tokens], *prompt.output_hashes)

    def draw(self) -> int:
        """Every token is 0."""
        return 0

    def hashes(self, full_blocks: int, block_size_tokens: int) -> Sequence[BlockHash]:
        """The hashes of the first ``full_blocks`` blocks, or of as many as have one."""
        return self._hashes[:full_blocks]

    def token_ids(self, start: int, end: int) -> Sequence[int]:
        return ()


Content = TokenContent | LengthContent
