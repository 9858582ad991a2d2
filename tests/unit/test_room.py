"""What a router believes about room: each bound by a table, and a refusal beats them all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.ids import Epoch, WorkerId
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState
from router.plan import WorkerView
from router.room import no_room_for_all, no_room_to_decode, no_room_to_prefill

FACTS = EngineFacts(block_size_tokens=16, num_blocks=64, max_model_len=1024, max_num_seqs=4, max_num_batched_tokens=512)
CARD = WorkerCard(WorkerId("w"), Epoch(1), Role.DECODE, WorkerState.READY, "tcp://h:1", "k", FACTS)
IDLE = WorkerView(CARD, WorkerLoad(free_blocks=64, num_blocks=64), max_prefill_tokens=1000, headroom_tokens=32)

PREFILL: dict[str, tuple[WorkerView, int, str | None]] = {
    "idle": (IDLE, 100, None),
    "idle, longer than the bound": (IDLE, 5000, None),
    "just fits": (replace(IDLE, outstanding_prefill_tokens=900), 100, None),
    "does not fit": (replace(IDLE, outstanding_prefill_tokens=900), 101, "900 prompt tokens are ahead, and it takes on 1000"),
    "refused": (replace(IDLE, refused="it refused: full"), 1, "it refused: full"),
}
DECODE: dict[str, tuple[WorkerView, int, str | None]] = {
    "idle": (IDLE, 5000, None),
    "fits beside one": (replace(IDLE, legs=1), 64 * 16 - 32, None),
    "eats into the headroom": (replace(IDLE, legs=1), 64 * 16 - 31, "992 tokens of KV room are left"),
    "more legs keep more headroom": (replace(IDLE, legs=3), 64 * 16 - 95, "928 tokens of KV room are left"),
    "what was sent since the report counts": (replace(IDLE, legs=1, pending_tokens=500), 493, "492 tokens of KV room are left"),
    "the report counts": (replace(IDLE, legs=1, load=WorkerLoad(free_blocks=3, num_blocks=64)), 17, "16 tokens of KV room are left"),
    "over-committed": (replace(IDLE, legs=1, load=WorkerLoad(free_blocks=0)), 1, "0 tokens of KV room are left"),
    "one more seat": (replace(IDLE, legs=3), 10, None),
    "no seat": (replace(IDLE, legs=4), 1, "4 requests are there, and it runs 4 at once"),
    "refused": (replace(IDLE, refused="it refused: full"), 1, "it refused: full"),
}


@pytest.mark.parametrize(("seen", "tokens", "reason"), PREFILL.values(), ids=PREFILL.keys())
def test_room_to_prefill(seen: WorkerView, tokens: int, reason: str | None) -> None:
    """One prompt always, then up to the bound."""
    assert no_room_to_prefill(seen, tokens) == reason


@pytest.mark.parametrize(("seen", "tokens", "reason"), DECODE.values(), ids=DECODE.keys())
def test_room_to_decode(seen: WorkerView, tokens: int, reason: str | None) -> None:
    """One request always, then as many as there are seats and KV for, each with room to grow."""
    assert no_room_to_decode(seen, tokens) == reason


def test_a_whole_request_needs_both() -> None:
    """The reason is that of the first that is missing."""
    assert no_room_for_all(IDLE, 100) is None
    assert (
        no_room_for_all(replace(IDLE, outstanding_prefill_tokens=950, legs=1), 100) == "950 prompt tokens are ahead, and it takes on 1000"
    )
    assert no_room_for_all(replace(IDLE, legs=4), 100) == "4 requests are there, and it runs 4 at once"
