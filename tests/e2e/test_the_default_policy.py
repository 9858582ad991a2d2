"""The default policy on real engines: what it weighs, what it says of that, and what it does with what a request is promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.balancer.price_parts import TERMS
from tests.e2e.answers import prompt_of
from tests.support.baton_process import ARGS, MODEL, BatonServer

pytestmark = pytest.mark.e2e

PATIENT = {"ttft_s": 90.0, "tpot_s": 9.0, "priority": 20}
SERVED = {
    **ARGS,
    "router": {name: value for name, value in ARGS["router"].items() if name != "policy"},
    "objectives": {"classes": {"patient": PATIENT}},
}
"""The same workers behind a router that is told no policy."""
BLOCK = 128
HOPELESS = {"x-baton-ttft-s": "0.001"}
"""Less than any step takes."""
MEASURED_AFTER = 200
"""Requests after which the workers that are chosen have told what their steps take. It takes some dozens, and five seconds."""
Json = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def measured(serves: None, ours: openai.OpenAI) -> None:
    """Asks for what cannot be. Nobody is refused for it by guesses: until the workers have measured their steps, all are served."""
    for number in range(MEASURED_AFTER):
        try:
            ask(ours, prompt_of(50 + 100 * (number % 8), 5900 + number), HOPELESS, max_tokens=24)
        except openai.BadRequestError:
            return
    raise AssertionError(f"no worker has measured its steps by {MEASURED_AFTER} requests")


def ask(
    client: openai.OpenAI, prompt: list[int], headers: dict[str, str] | None = None, extra: Json | None = None, **asked: Any
) -> tuple[Any, Mapping[str, str]]:
    """A completion, and the headers it came with. ``extra`` are fields the client has no name for."""
    settings = {"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0.0, **asked}
    extra = {"ignore_eos": True, **(extra or {})}
    raw = client.completions.with_raw_response.create(**settings, extra_headers=headers, extra_body=extra)
    return raw.parse(), raw.headers


def explained(baton: BatonServer, request_id: str) -> tuple[Json, Json]:
    """The one decision on a request with one prompt, and what then happened."""
    [told] = baton.get(f"/decisions/{request_id}")["decisions"]
    assert (told["outcome"], told["attempts"]) == ("finished", 1)
    [decided] = told["decisions"]
    return decided, told["happened"]


def test_a_decision_is_told_in_full(baton: BatonServer, ours: openai.OpenAI) -> None:
    """What each plan would have cost, term by term, with one worker and with two; which was taken; and what then happened."""
    answer, _ = ask(ours, prompt_of(500, 5000))
    decided, happened = explained(baton, answer.id)
    chosen, candidates = decided["chosen"], decided["candidates"]
    prefill, decode = (baton.workers()[role]["worker"] for role in ("prefill", "decode"))
    assert (decided["prompt_tokens"], decided["rejected"]) == (500, {})
    plans = {(candidate["prefill"], candidate["decode"]): candidate["split"] for candidate in candidates}
    assert plans == {(prefill, decode): True, (decode, decode): False}
    for candidate in candidates:
        terms = candidate["terms_s"]
        assert set(terms) == set(TERMS)
        assert sum(terms.values()) == pytest.approx(candidate["cost"], rel=1e-3, abs=1e-4)
        assert (terms["transfer"] > 0) is candidate["split"]
        assert min(terms["prefill"], terms["decode"], candidate["ttft_s"], candidate["tpot_s"]) > 0
        assert candidate["cached_tokens"] == {"prefill": 0, "decode": 0}
    assert chosen == min(candidates, key=lambda candidate: candidate["cost"])

    assert (happened["prefill_worker"], happened["decode_worker"]) == (chosen["prefill"], chosen["decode"])
    assert (happened["output_tokens"], happened["cached_tokens"]) == (8, 0)
    assert happened["transferred_tokens"] == (500 if chosen["split"] else 0)
    assert min(happened["ttft_s"], happened["tpot_s"]) > 0


def test_a_decision_is_told_in_short(baton: BatonServer, ours: openai.OpenAI) -> None:
    """By a header of the answer, streamed or not, that says what the long form does."""
    for stream in (False, True):
        with ours.completions.with_streaming_response.create(
            model=MODEL, prompt=prompt_of(400, 5010 + stream), max_tokens=4, stream=stream
        ) as raw:
            header, (first, *_) = raw.headers["x-baton-decision"], raw.iter_lines()
        decided, _ = explained(baton, httpx.Response(200, text=first.removeprefix("data: ")).json()["id"])
        chosen, said = decided["chosen"], dict(part.split("=") for part in header.split())
        where = {"prefill": chosen["prefill"], "decode": chosen["decode"]} if chosen["split"] else {"whole": chosen["decode"]}
        assert {name: said.pop(name) for name in where} == where
        assert said.pop("candidates") == str(decided["priced"])
        assert {name: float(value) for name, value in said.items()} == {
            name: pytest.approx(chosen[name], rel=1e-3) for name in ("ttft_s", "tpot_s", "cost")
        }


def test_predictions_are_held_against_what_happened(baton: BatonServer, ours: openai.OpenAI) -> None:
    """Each answer counts once for each quantity, and each hand-over for its transfer."""
    before = predictions_checked(baton)
    answers = [ask(ours, prompt_of(300, 5100 + number))[0] for number in range(4)]
    handed_over = sum(explained(baton, answer.id)[0]["chosen"]["split"] for answer in answers)
    new = predictions_checked(baton)
    new.subtract(before)
    assert {quantity: new[quantity] for quantity in ("ttft", "tpot", "output_tokens")} == {"ttft": 4, "tpot": 4, "output_tokens": 4}
    assert new["transfer"] == handed_over


def predictions_checked(baton: BatonServer) -> Counter[str]:
    """How many predictions of each quantity ``/metrics`` counts."""
    checked: Counter[str] = Counter()
    for family in text_string_to_metric_families(httpx.get(f"{baton.url}/metrics", timeout=30.0).text):
        for sample in family.samples:
            if sample.name == "baton_prediction_error_ratio_count":
                checked[sample.labels["quantity"]] += round(sample.value)
    return checked


@pytest.mark.parametrize(
    ("headers", "extra", "promised", "service"),
    [
        ({}, {}, (None, None), ("default", "0")),
        ({"x-baton-ttft-s": "60", "x-baton-tpot-s": "6"}, {}, (60.0, 6.0), ("default", "0")),
        ({"x-baton-class": "patient"}, {}, (90.0, 9.0), ("patient", "20")),
        ({"x-baton-class": "patient", "x-baton-ttft-s": "60"}, {"priority": 30}, (60.0, 9.0), ("patient", "30")),
    ],
    ids=["nothing", "an objective of its own", "a class", "more than the class"],
)
def test_what_is_promised_is_part_of_the_decision(
    baton: BatonServer,
    ours: openai.OpenAI,
    headers: dict[str, str],
    extra: Json,
    promised: tuple[float | None, float | None],
    service: tuple[str, str],
) -> None:
    """What a request asks for by its headers and fields is what is decided by; the answer names its class and priority."""
    answer, told = ask(ours, prompt_of(200, 5200), headers, extra)
    decided, _ = explained(baton, answer.id)
    assert decided["objective"] == {"ttft_s": promised[0], "tpot_s": promised[1]}
    assert (told["x-baton-class"], told["x-baton-priority"]) == service


@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_kept_is_refused(ours: openai.OpenAI, stream: bool) -> None:
    """400 with the reason, what was promised and what to ask for: no time to come again makes a prompt shorter. What can be kept is
    served."""
    with pytest.raises(openai.BadRequestError) as refused:
        ask(ours, prompt_of(200, 5300), HOPELESS, stream=stream)
    assert "retry-after" not in refused.value.response.headers
    assert "the prompt is too long for its promise" in refused.value.message
    assert "promised within 0.001 s" in refused.value.message
    answer, _ = ask(ours, prompt_of(200, 5300), {"x-baton-ttft-s": "60"})
    assert answer.usage.completion_tokens == 8


def test_a_prompt_that_is_cached_is_known_to_be(baton: BatonServer, ours: openai.OpenAI) -> None:
    """The second time, its full blocks are known to be where it was computed, and the engine finds as many. (What that is worth depends on
    how long steps are measured to take meanwhile: ``tests/unit/test_joint.py``.)"""
    prompt = prompt_of(4 * BLOCK + 50, 5400)
    (_, happened), (second, again) = (explained(baton, ask(ours, prompt)[0].id) for _ in range(2))
    assert happened["cached_tokens"] == 0
    where = happened["prefill_worker"]
    known = {candidate["prefill"]: candidate["cached_tokens"]["prefill"] for candidate in second["candidates"]}
    assert known[where] == 4 * BLOCK
    assert again["cached_tokens"] == known[again["prefill_worker"]] == 4 * BLOCK  # nobody computes again what need not be
