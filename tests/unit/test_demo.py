"""What the demo shows of a request, and when it says that two workers did it."""

from __future__ import annotations

from typing import Any

import pytest

from core.ids import RequestId, WorkerId
from deploy.cmd_demo import next_steps, picture, verdict
from router.timeline import Timeline


def timeline(**changes: Any) -> dict[str, Any]:
    """A request of 85 prompt and 48 output tokens that was split and transferred, less the changes."""
    told = Timeline(RequestId("a"), "chatcmpl-a", 0.0, 0.0, prompt_tokens=85, max_tokens=48)
    told.prefill_worker, told.decode_worker = WorkerId("prefill-1"), WorkerId("decode-1")
    told.sent_s, told.queue_s, told.first_token_s, told.handed_off_s = 0.001, 0.002, 0.030, 0.031
    told.decoding_s, told.finished_s, told.output_tokens = 0.131, 0.331, 48
    told.transferred_tokens, told.recomputed_tokens, told.transfer_bytes, told.transfer_s = 85, 1, 524_288, 0.02
    for name, value in changes.items():
        setattr(told, name, value)
    return told.as_dict()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "served by two workers: decode took over the KV of 85 tokens and computed 1 itself"),
        ({"transferred_tokens": 0, "decode_cached_tokens": 85}, "served by two workers"),
        ({"transferred_tokens": 0, "recomputed_tokens": 86}, "the KV did not arrive: decode computed 86 prompt tokens again"),
        ({"decode_worker": WorkerId("prefill-1"), "plan_reason": "one worker: why"}, "served by one worker, prefill-1: one worker: why"),
    ],
)
def test_the_verdict(changes, says):
    """Two workers only where decode really worked on prefill's KV; a recomputed prompt and a single worker are called that."""
    assert verdict(timeline(**changes)).startswith(says)


def test_the_picture_names_who_did_what():
    """A line per phase with its milliseconds, the worker, the bytes moved; and the first token's time apart from the hand-off."""
    drawn = picture(timeline())
    for told in ("route", "queue", "prefill-1: 85 prompt tokens", "0.52 MB of KV in 20.0 ms to decode-1", "decode-1: 48 tokens", "30.0 ms"):
        assert told in drawn
    assert "the hand-off is not in that" in drawn


def test_the_picture_of_one_worker_has_no_hand_off():
    """Nothing is said of a hand-off that did not happen."""
    drawn = picture(timeline(decode_worker=WorkerId("prefill-1"), handed_off_s=None, decoding_s=0.030))
    assert "hand-off" not in drawn
    assert "handoff" not in drawn


def test_what_to_try_next_can_be_typed():
    """The lines name this server and this model."""
    said = next_steps("http://127.0.0.1:8123", "mine")
    assert said.count("http://127.0.0.1:8123") == 3
    assert said.count("mine") == 2
