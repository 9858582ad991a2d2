"""What undisturbed simulated engines answer: known beforehand, for a token is a function of all tokens before it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from engine.sim_tokens import TokenRule, TokenStream
from tests.chaos.streams import Ask

_SPECIAL = frozenset({0, 1, 2, 3})
RULE = TokenRule(vocab_size=4096, special_token_ids=_SPECIAL)
"""As ``tests.support.cluster_process.simulated_args`` has it. That the cluster obeys it is looked at before anything is broken."""


def output_of(prompt: Sequence[int], tokens: int) -> list[int]:
    """The first so many output tokens."""
    stream, output = TokenStream(RULE, prompt), list[int]()
    for _ in range(tokens):
        output.append(stream.next())
        stream.extend(output[-1:])
    return output


def asks(scene: str, count: int, prompt_tokens: int, output_tokens: int) -> list[Ask]:
    """``count`` requests that share no prefix with each other or with those of another ``scene``."""
    return [ask(f"{scene}-{number:03d}", prompt_tokens, output_tokens) for number in range(count)]


def ask(name: str, prompt_tokens: int, output_tokens: int) -> Ask:
    """The request that this name always stands for."""
    prompt = random.Random(name).choices(range(300, RULE.vocab_size), k=prompt_tokens)
    return Ask(name, prompt, output_of(prompt, output_tokens))
