"""The simulated model: the next token is a fixed function of all tokens before it, prompt and output alike."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence, Set

import msgspec


class TokenRule(msgspec.Struct, frozen=True):
    """What can be sampled. Engines with equal rules continue each other's outputs token for token."""

    vocab_size: int
    special_token_ids: frozenset[int] = frozenset()
    """Never sampled."""
    eos_token_id: int | None = None
    mean_output_tokens: int = 0
    """End of sequence is sampled once in so many tokens; 0: never."""


class TokenStream:
    """One sequence's tokens so far, and what comes next."""

    def __init__(self, rule: TokenRule, prompt: Sequence[int]) -> None:
        self._rule = rule
        self._seen = hashlib.blake2b(digest_size=16)
        self.extend(prompt)

    def extend(self, token_ids: Sequence[int]) -> None:
        self._seen.update(array("I", token_ids).tobytes())

    def next(self, barred: Set[int] = frozenset()) -> int:
        """The next token; never a ``barred`` one. Does not add it."""
        rule = self._rule
        digest = self._seen.digest()
        if rule.eos_token_id is not None and rule.eos_token_id not in barred and self._ends(digest):
            return rule.eos_token_id
        token = int.from_bytes(digest[8:], "big") % rule.vocab_size
        for _ in range(rule.vocab_size):
            if token != rule.eos_token_id and token not in rule.special_token_ids and token not in barred:
                break
            token = (token + 1) % rule.vocab_size
        return token

    def _ends(self, digest: bytes) -> bool:
        every = self._rule.mean_output_tokens
        return every > 0 and int.from_bytes(digest[:8], "big") % every == 0
