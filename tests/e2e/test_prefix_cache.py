"""What an engine has computed before is not computed again, and clients are told."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.e2e.answers import prompt_of
from tests.support.baton_process import MODEL, BatonServer

pytestmark = pytest.mark.e2e

BLOCK = 128


def ask(client: openai.OpenAI, prompt: list[int], **asked: Any) -> Any:
    return client.completions.create(**{"model": MODEL, "prompt": prompt, "max_tokens": 3, "temperature": 0.0, **asked})


def cached(answer: Any) -> int:
    """What ``usage`` says of the prompt's cached part."""
    details = answer.usage.prompt_tokens_details
    return (details.cached_tokens or 0) if details is not None else 0


@pytest.mark.parametrize("how", [{}, {"seed": 1}], ids=["prefill's first token", "decode's first token"])
def test_a_repeated_prompt_is_reported_as_cached(baton: BatonServer, ours: openai.OpenAI, how: dict[str, Any]) -> None:
    """Its full blocks, and no token of them is moved to decode again."""
    prompt = prompt_of(3 * BLOCK + 20, 2000 + len(how))
    first, second = ask(ours, prompt, **how), ask(ours, prompt, **how)
    assert (cached(first), cached(second)) == (0, 3 * BLOCK)
    assert second.choices[0].text == first.choices[0].text
    [timeline] = baton.timelines(second.id)
    assert timeline["cached_tokens"] == 3 * BLOCK
    assert timeline["decode_cached_tokens"] == 3 * BLOCK
    assert timeline["was_transferred"]


def test_a_longer_prompt_with_the_same_beginning(ours: openai.OpenAI) -> None:
    """Only the blocks that are equal count."""
    beginning = prompt_of(2 * BLOCK, 2100)
    ask(ours, [*beginning, *prompt_of(BLOCK, 2101)])
    assert cached(ask(ours, [*beginning, *prompt_of(BLOCK, 2102)])) == 2 * BLOCK


def test_other_prompts_are_not_cached(ours: openai.OpenAI) -> None:
    """A prompt that differs in its first token shares nothing; one below a block has nothing to share."""
    prompt = prompt_of(2 * BLOCK, 2200)
    ask(ours, prompt)
    assert cached(ask(ours, [prompt[0] + 1, *prompt[1:]])) == 0
    short = prompt_of(BLOCK - 1, 2201)
    assert [cached(ask(ours, short)) for _ in range(2)] == [0, 0]


def test_tenants_do_not_share(ours: openai.OpenAI) -> None:
    """Another ``cache_salt`` sees nothing of what was cached under the first."""
    prompt = prompt_of(2 * BLOCK + 1, 2300)
    answers = [ask(ours, prompt, extra_body={"cache_salt": salt}) for salt in ("one", "two", "one")]
    assert [cached(answer) for answer in answers] == [0, 0, 2 * BLOCK]


def test_a_stream_reports_it_too(ours: openai.OpenAI) -> None:
    """In the usage of its last chunk."""
    prompt = prompt_of(2 * BLOCK + 1, 2400)
    ask(ours, prompt)
    *_, last = ask(ours, prompt, stream=True, stream_options={"include_usage": True})
    assert cached(last) == 2 * BLOCK
