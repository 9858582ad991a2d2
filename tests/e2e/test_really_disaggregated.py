"""The work is really shared: what the engines say of themselves, and what the router noted of each request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.e2e.answers import prompt_of
from tests.support.baton_process import MODEL, BatonServer
from tests.support.processes import wait_until

pytestmark = pytest.mark.e2e

LENGTHS = [1, 127, 128, 129, 400, 2500]


def count(baton: BatonServer, role: str) -> tuple[int, int]:
    """The engine's own counters: prompt tokens it computed, KV bytes it received."""
    worker = baton.workers()[role]
    return worker["computed_prompt_tokens"], worker["received_bytes"]


def ask(client: openai.OpenAI, prompt: list[int], **asked: Any) -> str:
    """The id of a request that has been answered."""
    settings = {"max_tokens": 5, "temperature": 0.0, **asked}
    answer = client.completions.create(model=MODEL, prompt=prompt, **settings)
    assert answer.usage is not None
    return str(answer.id)


def becomes(baton: BatonServer, role: str, wanted: tuple[int, int]) -> Callable[[], bool]:
    """The engine's counters as soon as the controller has heard of all it did."""
    return lambda: count(baton, role)[0] >= wanted[0] and count(baton, role)[1] >= wanted[1]


@pytest.mark.parametrize("how", [{}, {"seed": 5, "temperature": 1.0}], ids=["greedy", "seeded"])
def test_decode_computes_nothing_of_a_prompt_but_its_end(baton: BatonServer, ours: openai.OpenAI, how: dict[str, Any]) -> None:
    """Prefill computed every prompt token, decode at most one per request, and received the rest: as many bytes as were noted."""
    prefill, decode = count(baton, "prefill"), count(baton, "decode")
    seed = 1000 + len(how)
    timelines = [baton.timelines(ask(ours, prompt_of(tokens, seed + tokens), **how))[0] for tokens in LENGTHS]
    moved = sum(timeline["transfer_bytes"] for timeline in timelines)
    computed = sum(timeline["recomputed_tokens"] for timeline in timelines)
    wanted_prefill = (prefill[0] + sum(LENGTHS), prefill[1])
    wanted_decode = (decode[0] + computed, decode[1] + moved)
    wait_until(becomes(baton, "prefill", wanted_prefill), 10.0, "the prefill engine's counters are known")
    wait_until(becomes(baton, "decode", wanted_decode), 10.0, "the decode engine's counters are known")
    assert count(baton, "prefill") == wanted_prefill
    assert count(baton, "decode") == wanted_decode
    assert moved > 0
    for tokens, timeline in zip(LENGTHS, timelines, strict=True):
        assert timeline["was_split"]
        assert timeline["transfer_bytes"] > 0
        assert timeline["was_transferred"]
        assert timeline["transferred_tokens"] == tokens
        assert timeline["recomputed_tokens"] == 1  # prefill's token


def test_bytes_grow_with_the_prompt(baton: BatonServer, ours: openai.OpenAI) -> None:
    """What is moved are the prompt's blocks, no more and no less."""
    moved = [baton.timelines(ask(ours, prompt_of(blocks * 128, 1100 + blocks)))[0]["transfer_bytes"] for blocks in (1, 2, 8)]
    assert [size / moved[0] for size in moved] == [1, 2, 8]


def test_the_first_token_does_not_wait_for_the_hand_off(baton: BatonServer, ours: openai.OpenAI) -> None:
    """It is with the client before decode has said anything."""
    [timeline] = baton.timelines(ask(ours, prompt_of(700, 1200)))
    assert timeline["first_token_s"] < timeline["decoding_s"]
    assert timeline["first_token_s"] <= timeline["handed_off_s"]
    assert timeline["outcome"] == "finished"
    assert timeline["output_tokens"] == 5


def test_a_seeded_first_token_does_not_wait_either(baton: BatonServer, ours: openai.OpenAI) -> None:
    """Decode's generator goes on where prefill's has stopped."""
    [timeline] = baton.timelines(ask(ours, prompt_of(700, 1300), seed=1, temperature=1.0))
    assert timeline["was_transferred"]
    assert timeline["first_token_s"] <= timeline["handed_off_s"] < timeline["decoding_s"]
    assert timeline["output_tokens"] == 5


def test_every_choice_has_its_timeline(baton: BatonServer, ours: openai.OpenAI) -> None:
    """n=3 are three requests to the engines, each split, under the one id the client knows."""
    timelines = baton.timelines(ask(ours, prompt_of(300, 1400), n=3, temperature=1.0))
    assert [timeline["was_split"] for timeline in timelines] == [True] * 3
    assert [timeline["output_tokens"] for timeline in timelines] == [5] * 3
    assert all(timeline["was_transferred"] for timeline in timelines)
