"""What a client or an operator is told of a decision: all of it as JSON, and one line for a header."""

from __future__ import annotations

import asyncio
import json

import pytest

from core.ids import RequestId, WorkerId
from router.decision_note import current_note, new_note
from router.decisions import explained, in_short
from router.plan import Ask, Decision, Plan, Scored
from router.timeline import Timeline

P, D = WorkerId("p"), WorkerId("d")
ASK = Ask(RequestId("r"), 20, 10, True, hits={P: 16}, expected_tokens=7.5, ttft_s=2.0)
PAIR = Scored(Plan(P, D), 1.25, "quick", {"queue": 0.25, "decode": 1.0}, 0.3, 0.0125)
ALONE = Scored(Plan(D, D), 2.5, "slow", {"queue": 2.5}, 2.6, 0.1)
SPLIT = Decision(PAIR, (PAIR, ALONE), {WorkerId("x"): "draining"}, "split", took_s=0.0005, priced=20)
NOBODY = Decision(None, (), {P: "full"}, "no worker can take it")


def timeline(*decisions: Decision) -> Timeline:
    record = Timeline(RequestId("r"), "c", 1000.0, 50.0, 20, 8)
    for number, decision in enumerate(decisions):
        record.decided(ASK, decision, number + 0.5)
    return record


def test_everything_a_decision_was_made_of_is_told() -> None:
    """Candidates with their terms, who was none and why, what was assumed, and then what happened; as JSON."""
    record = timeline(SPLIT)
    record.first_token_s, record.finished_s, record.output_tokens = 0.4, 1.4, 11
    told = json.loads(json.dumps(explained(record)))
    (made,) = told["decisions"]
    assert (made["at_s"], made["took_s"], made["prompt_tokens"], made["expected_output_tokens"]) == (0.5, 0.0005, 20, 7.5)
    assert made["objective"] == {"ttft_s": 2.0, "tpot_s": None}
    assert made["chosen"] == made["candidates"][0]
    assert made["chosen"] == {
        "prefill": "p",
        "decode": "d",
        "split": True,
        "cost": 1.25,
        "terms_s": {"queue": 0.25, "decode": 1.0},
        "ttft_s": 0.3,
        "tpot_s": 0.0125,
        "cached_tokens": {"prefill": 16, "decode": 0},
        "reason": "quick",
    }
    assert [candidate["cost"] for candidate in made["candidates"]] == [1.25, 2.5]
    assert made["rejected"] == {"x": "draining"}
    happened = told["happened"]
    assert (happened["ttft_s"], happened["tpot_s"], happened["output_tokens"]) == (0.4, pytest.approx(0.1), 11)


def test_a_decision_for_nobody_says_who_was_none() -> None:
    """There is nothing chosen, and nothing for the header."""
    record = timeline(NOBODY)
    assert explained(record)["decisions"][0]["chosen"] is None
    assert explained(record)["decisions"][0]["rejected"] == {"p": "full"}
    assert in_short(record.decisions[0]) == ""


def test_only_the_newest_decisions_are_kept() -> None:
    """A request that is tried for ever must not grow for ever."""
    record = timeline(*[SPLIT] * 10)
    assert [made.at_s for made in record.decisions] == [7.5, 8.5, 9.5]
    assert record.attempts == 10


def test_the_short_form_names_workers_and_predictions() -> None:
    """Split or whole; what is not predicted is left out."""
    whole = Decision(Scored(Plan(D, D), 3.0, "drawn"), (), {}, "one worker")
    record = timeline(SPLIT, whole)
    assert [in_short(made) for made in record.decisions] == [
        "prefill=p decode=d ttft_s=0.3 tpot_s=0.0125 cost=1.25 candidates=20",
        "whole=d cost=3 candidates=0",
    ]


async def test_a_note_is_its_requests_own() -> None:
    """Whoever serves the request, in its task or in one begun for it, writes to the same note; other requests do not."""

    async def served(text: str) -> str:
        note = new_note()

        async def deep_inside() -> None:
            found = current_note()
            assert found is not None
            await asyncio.sleep(0)
            found.text = text

        await asyncio.create_task(deep_inside())
        return note.text

    assert list(await asyncio.gather(served("a"), served("b"))) == ["a", "b"]
    assert current_note() is None
