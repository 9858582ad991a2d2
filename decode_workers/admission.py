"""Whether a worker takes one more answer to generate: every one it has grows, and none may be thrown out for a new one."""

from __future__ import annotations

from cluster.admission import Admission, Room, kv_refusal
from cluster.messages import AddLeg


class DecodeAdmission(Admission):
    """Keeps ``headroom_tokens`` of KV for each running leg to grow into, and no more legs than the engine runs at once.

    A leg beyond either would wait in the engine, or make it preempt another, while a second worker may have room.
    """

    def __init__(self, headroom_tokens: int) -> None:
        self._headroom_tokens = headroom_tokens

    def refusal(self, add: AddLeg, room: Room) -> str | None:
        if room.legs >= room.facts.max_num_seqs:
            return f"{room.legs} legs run; the engine runs {room.facts.max_num_seqs} at once"
        return kv_refusal(add, room, self._headroom_tokens)
