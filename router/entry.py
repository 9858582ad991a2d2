"""One request with all that belongs to it in the router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.messages import LegKind
from core.ids import LegId, WorkerId
from router.arrivals import Arrival
from router.decision_note import DecisionNote
from router.decisions import in_short
from router.flow import Flow
from router.inflight import Slack, Work
from router.instructions import Fail
from router.plan import SLACKS, Ask, Scored
from router.prefix.prompt import PromptKeys
from router.service import ORDINARY, WantedService
from router.tally import Meter
from router.timeline import Timeline
from router.timers import Timer
from router.track import Track
from router.waiting import Rank, Takes

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest


@dataclass(slots=True)
class Entry:
    """Only the dispatcher and its parts change it."""

    request: EngineCoreRequest
    flow: Flow
    timeline: Timeline
    frames: Sequence[bytes]
    """The request as the client sent it, encoded once for every leg."""
    service: WantedService = ORDINARY
    """What it is promised, and to whom it belongs."""
    keys: PromptKeys = field(default_factory=PromptKeys)
    """By which caches are asked for its prompt."""
    note: DecisionNote | None = None
    """Where the short form of its decisions goes, beside the timeline."""
    held: EngineCoreOutput | None = None
    """A prefill output whose token does not count; what it tells of the prompt goes out with decode's first output."""
    kinds: dict[LegId, LegKind] = field(default_factory=dict)
    """Every leg it ever had."""
    begun: set[LegId] = field(default_factory=set)
    """Those that have told something."""
    asked: Ask | None = None
    chosen: Scored | None = None
    """The plan it follows, and what that was made from."""
    kept_until_s: float | None = None
    """When the lease on its kept prompt ends; on the router's clock, which began later: on the safe side only for the router."""
    waits_since_s: float | None = None
    """Since when no worker has worked on it, however often it was tried meanwhile: its place in the queue."""
    entered_s: float | None = None
    """Since when it has been in the queue."""
    counts_from_s: float | None = None
    """It came when nobody served: when somebody did at last, or infinite. What it was promised counts from then."""
    takes: Takes | None = None
    """How long it will take once a worker has it; found out once, when nobody has room."""
    again_s: float | None = None
    """It waits by choice, and is to be decided on again then; or when one of ``awaited``, which are full, has room."""
    awaited: Sequence[WorkerId] = ()
    is_turn: bool = False
    """It is being tried out of the queue: it need not wait behind the others."""
    timers: list[Timer] = field(default_factory=list)
    meter: Meter | None = None
    """Where its tokens are counted."""
    told_s: float | None = None
    """When its client was last given tokens."""
    fail: Fail | None = None
    """Why it was given up."""
    track: Track | None = None
    """What is told of it as a trace; None: nothing is."""

    def placed(self, ask: Ask, chosen: Scored) -> None:
        """It has a plan."""
        self.asked, self.chosen = ask, chosen
        if self.note is not None:
            self.note.text = in_short(self.timeline.decisions[-1])

    @property
    def adapter(self) -> str | None:
        """The LoRA adapter that it asks for."""
        lora = self.request.lora_request
        return lora.lora_name if lora is not None else None

    @property
    def hits(self) -> Mapping[WorkerId, int]:
        """Tokens that workers had of its prompt when it was planned."""
        return self.asked.hits if self.asked is not None else {}

    def ends_s(self, now_s: float) -> float | None:
        """When it will probably be done, as planned; None where the policy predicts nothing."""
        ask, chosen = self.asked, self.chosen
        if ask is None or chosen is None or chosen.tpot_s is None:
            return None
        to_first_s = 0.0 if self.flow.emitted else max(0.0, (chosen.ttft_s or 0.0) - ask.waited_s)
        return now_s + to_first_s + ask.expected_tokens * chosen.tpot_s

    @property
    def slack(self) -> Slack | None:
        """By how much it may be held up while it decodes and still keep its time per token; None: nothing is promised, or predicted."""
        ask, chosen = self.asked, self.chosen
        if ask is None or chosen is None or chosen.step_s is None or ask.tpot_s is None:
            return None
        handover_s = chosen.terms.get("transfer", 0.0) + chosen.terms.get("admit", 0.0)
        return Slack(ask.tpot_s - chosen.step_s, ask.likely_tokens or (ask.expected_tokens,) * SLACKS, handover_s)

    def work_to_come(self, now_s: float) -> Work:
        """What it will ask of the worker it is handed over to, once its prompt is computed elsewhere."""
        arrival = self._arrival(now_s + self.chosen.prompt_s, is_ready=False) if self.chosen is not None else None
        return Work(0, 0, self._held_tokens, self.context_tokens, self.ends_s(now_s), self.slack, arrival=arrival)

    def work(self, kind: LegKind, worker: WorkerId, now_s: float) -> Work:
        """What a leg that is sent now asks of its worker."""
        work = Work(context_tokens=self.context_tokens)
        if kind is not LegKind.DECODE:
            work.prefill_tokens = work.context_tokens
            work.uncached_tokens = work.context_tokens - min(self.hits.get(worker, 0), work.context_tokens - 1)
            work.stall_s = self.chosen.stall_s if self.chosen is not None else 0.0
        if kind is not LegKind.PREFILL:
            work.decode_tokens, work.finishes_s, work.slack = self._held_tokens, self.ends_s(now_s), self.slack
        if kind is LegKind.DECODE:
            work.arrival = self._arrival(now_s, is_ready=True)
        return work

    def _arrival(self, ready_s: float, *, is_ready: bool) -> Arrival | None:
        """Of its KV on the decode worker; None where the policy predicts nothing, or nothing is to be moved."""
        moves_s = self.chosen.moves_s if self.chosen is not None else 0.0
        return Arrival(ready_s, moves_s, is_ready) if moves_s else None

    @property
    def _held_tokens(self) -> int:
        """Its context and all that it may still make."""
        return self.context_tokens + max(0, self.timeline.max_tokens - len(self.flow.emitted))

    @property
    def context_tokens(self) -> int:
        """Prompt and emitted tokens."""
        return self.timeline.prompt_tokens + len(self.flow.emitted)

    @property
    def rank(self) -> Rank:
        """Its place in the queue."""
        if self.flow.kept is not None:
            return Rank.HANDED_OFF
        return Rank.RESUMED if self.flow.emitted or self.flow.losses else Rank.NEW
