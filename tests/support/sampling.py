"""What simulated engines answer, and two kinds of sampling: all a test has to know of tokens."""

from __future__ import annotations

from typing import Any

import pytest

from engine.sim_tokens import TokenRule, TokenStream

COUNTS: dict[str, Any] = {}
"""Sampling whose first token the prefill worker samples for the client."""
HELD: dict[str, Any] = {"thinking_token_budget": 5}
"""Sampling that cannot be continued: the decode worker samples the first token."""
BOTH = pytest.mark.parametrize("sampling", [COUNTS, HELD], ids=["prefill-samples-first", "decode-samples-first"])


def expected(prompt: list[int], count: int) -> list[int]:
    """What the simulated model says after a prompt."""
    stream = TokenStream(TokenRule(300), prompt)
    tokens: list[int] = []
    for _ in range(count):
        tokens.append(stream.next())
        stream.extend(tokens[-1:])
    return tokens
