"""Whether a worker takes one more prompt: it promises to begin soon, so it lets none queue up that others could compute."""

from __future__ import annotations

from cluster.admission import Admission, Room, computes_prompt, kv_refusal, max_prefill_tokens
from cluster.messages import AddLeg
from core.worker import EngineFacts


class PrefillAdmission(Admission):
    """Bounds the prompt tokens taken on and not computed. ``max_tokens`` None: four steps' worth.

    One prompt is always taken, however long: split or not, somebody has to compute it.
    """

    def __init__(self, max_tokens: int | None, headroom_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._headroom_tokens = headroom_tokens

    def refusal(self, add: AddLeg, room: Room) -> str | None:
        limit = self.limit(room.facts)
        if computes_prompt(add) and room.prompt_tokens and room.prompt_tokens + add.tokens > limit:
            return f"{room.prompt_tokens} prompt tokens are ahead of its {add.tokens}; the limit is {limit}"
        return kv_refusal(add, room, self._headroom_tokens)

    def limit(self, facts: EngineFacts) -> int:
        """Prompt tokens taken on before the first of them is done."""
        return max_prefill_tokens(self._max_tokens, facts)
