"""What each kind of leg asks of its engine, with and without tokens that are out already."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.leg import LegHandler
from cluster.messages import AddLeg, LegKind
from cluster.whole import WholeLegs
from core.handle import KVHandle
from core.ids import Epoch, LegId, WorkerId
from decode_workers.decode import DecodeLegs
from engine.sampling import EMITTED_KEY, TRANSFER_KEY
from prefill_workers.prefill import PrefillLegs
from tests.contract.engine_contract import ask

LEG, EPOCH, WORKER = LegId("r:3"), Epoch(1), WorkerId("w")
PREFILL, DECODE, WHOLE = PrefillLegs(WORKER, EPOCH, 10, lambda: 0.0), DecodeLegs(), WholeLegs()
KEEP = {"do_remote_decode": True, "do_remote_prefill": False}
HANDLE = KVHandle(worker=WORKER, epoch=EPOCH, leg=LegId("r:2"), tokens=3, blocks=1, expires_in_s=1, transfer={"pull": 1})

TABLE: dict[str, tuple[LegHandler, AddLeg, dict[str, Any] | None, tuple[int, int], int | None]] = {
    "prefill": (PREFILL, AddLeg(LEG, EPOCH, LegKind.PREFILL), KEEP, (1, 1), 2),
    "prefill behind two": (PREFILL, AddLeg(LEG, EPOCH, LegKind.PREFILL, emitted=[7, 8]), {**KEEP, EMITTED_KEY: [7, 8]}, (3, 3), None),
    "prefill for nothing": (PREFILL, AddLeg(LEG, EPOCH, LegKind.PREFILL, first_token_counts=False), KEEP, (1, 0), 2),
    "decode": (DECODE, AddLeg(LEG, EPOCH, LegKind.DECODE, handle=HANDLE), {"pull": 1}, (9, 5), None),
    "decode behind one": (
        DECODE,
        AddLeg(LEG, EPOCH, LegKind.DECODE, emitted=[7], handle=HANDLE),
        {"pull": 1, EMITTED_KEY: [7]},
        (9, 5),
        None,
    ),
    "decode without a handle": (DECODE, AddLeg(LEG, EPOCH, LegKind.DECODE, emitted=[7]), {EMITTED_KEY: [7]}, (9, 5), None),
    "whole": (WHOLE, AddLeg(LEG, EPOCH, LegKind.WHOLE), None, (9, 5), 2),
    "whole behind two": (WHOLE, AddLeg(LEG, EPOCH, LegKind.WHOLE, emitted=[7, 8]), {EMITTED_KEY: [7, 8]}, (9, 5), None),
}
"""Leg, transfer parameters, (max_tokens, min_tokens), prompt logprobs."""


@pytest.mark.parametrize(("handler", "add", "transfer", "limits", "prompt_logprobs"), TABLE.values(), ids=TABLE.keys())
def test_what_a_leg_asks(
    handler: LegHandler, add: AddLeg, transfer: dict[str, Any] | None, limits: tuple[int, int], prompt_logprobs: int | None
) -> None:
    """The prompt is always the client's; what is out is told beside it, and prompt logprobs are asked for once."""
    request = ask("r", [1, 2, 3], 9, min_tokens=5, prompt_logprobs=2)
    before = repr(request)
    made = handler.engine_request(add, request)
    assert repr(request) == before
    assert (made.request_id, made.prompt_token_ids) == (LEG, [1, 2, 3])
    sampling = made.sampling_params
    assert sampling is not None
    assert (sampling.extra_args or {}).get(TRANSFER_KEY) == transfer
    assert (sampling.max_tokens, sampling.min_tokens) == limits
    assert sampling.prompt_logprobs == prompt_logprobs


def test_a_pooling_request_is_passed_on() -> None:
    """It has no sampling parameters to change."""
    request = ask("r", [1, 2, 3], 9)
    request.sampling_params = None
    assert WHOLE.engine_request(AddLeg(LEG, EPOCH, LegKind.WHOLE), request).sampling_params is None
