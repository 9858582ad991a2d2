"""What happened to a request and when: the record behind ``GET /v1/baton/requests/{id}`` and the demo's picture."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, fields
from typing import Any

from core.ids import RequestId, WorkerId
from core.metrics.words import Part
from engine.base import Transfer
from router.plan import Ask, Decision

_DECISIONS_KEPT = 3


@dataclass(frozen=True, slots=True)
class Made:
    """A plan, and what it was made from."""

    at_s: float
    """Seconds since the request reached this router."""
    ask: Ask
    decision: Decision


@dataclass(slots=True)
class Timeline:
    """Times are seconds since the request reached this router (``None``: did not happen). One per engine request."""

    request: RequestId
    client_request: str
    """The id the client knows; an ``n=3`` request has three timelines with the same one."""
    arrived_at: float
    """Unix time, seconds."""
    began_s: float
    """The router's monotonic clock at arrival."""
    prompt_tokens: int
    max_tokens: int
    split_reason: str = ""
    plan_reason: str = ""
    prefill_worker: WorkerId | None = None
    decode_worker: WorkerId | None = None
    policy_reason: str = ""
    attempts: int = 0
    """Plans made."""
    refusals: int = 0
    """Workers that had no room for it when they were asked."""
    losses: int = 0
    """Engines that ended under it."""
    resumes: int = 0
    """Times it was continued by another worker behind tokens its client had."""
    waited_s: float = 0.0
    """Seconds in the router's queue, all stays together."""
    sent_s: float | None = None
    queue_s: float | None = None
    """Seconds in the first worker's engine queue."""
    first_token_s: float | None = None
    handed_off_s: float | None = None
    """When the decode leg was sent."""
    decoding_s: float | None = None
    """When the first token came of the worker that decodes."""
    decisions: list[Made] = field(default_factory=list)
    """The newest plans, oldest first."""
    earlier_s: dict[Part, float] = field(default_factory=dict)
    """Seconds per part that went into attempts before the last one."""
    attempt_began_s: float = 0.0
    finished_s: float | None = None
    output_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens the first worker had in its prefix cache."""
    transferred_tokens: int = 0
    """Prompt tokens whose KV the decode worker took over, by pull."""
    decode_cached_tokens: int = 0
    """Prompt tokens whose KV the decode worker had already."""
    recomputed_tokens: int = 0
    """Prompt tokens the decode worker computed itself. One is the rule: the token in front of the next."""
    transfer_bytes: int = 0
    transfer_s: float = 0.0
    outcome: str = "running"
    error: str | None = None
    trace_id: str = ""
    """Where its spans are; empty: there are none. docs/tracing.md"""

    def considered(self, ask: Ask, decision: Decision, now_s: float) -> None:
        """A plan was looked at, and perhaps will not be followed."""
        self.decisions = [*self.decisions[1 - _DECISIONS_KEPT :], Made(now_s, ask, decision)]

    def decided(self, ask: Ask, decision: Decision, now_s: float = 0.0) -> None:
        """A plan was made ``now_s`` after arrival. Fields tell of the last attempt; the time that earlier ones took stays counted."""
        self.considered(ask, decision, now_s)
        if self.attempts:
            for part, seconds in self._spent(now_s).items():
                self.earlier_s[part] = self.earlier_s.get(part, 0.0) + seconds
            self.attempt_began_s = now_s
        self.attempts += 1
        self.sent_s = self.queue_s = self.handed_off_s = self.decoding_s = None
        self.cached_tokens = self.transferred_tokens = self.decode_cached_tokens = self.recomputed_tokens = 0
        self.transfer_bytes, self.transfer_s = 0, 0.0
        self.plan_reason = decision.reason
        if decision.chosen is not None:
            self.policy_reason = decision.chosen.reason
            plan = decision.chosen.plan
            self.prefill_worker, self.decode_worker = plan.prefill, plan.decode

    def handed_over(self, ask: Ask, decision: Decision, now_s: float) -> None:
        """Who decodes was decided anew, ``now_s`` after arrival: the same attempt goes on."""
        self.considered(ask, decision, now_s)
        if decision.chosen is not None:
            self.policy_reason, self.decode_worker = decision.chosen.reason, decision.chosen.plan.decode

    def moved(self, transfer: Transfer) -> None:
        """A KV pull for this request finished."""
        self.transfer_bytes += transfer.transfer_bytes
        self.transfer_s = max(self.transfer_s, transfer.transfer_s)  # the ranks of one engine pull side by side

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first, up to the end."""
        spent_s = _less(self.finished_s, self.first_token_s)
        return spent_s / (self.output_tokens - 1) if spent_s is not None and self.output_tokens > 1 else None

    @property
    def was_split(self) -> bool:
        return self.prefill_worker != self.decode_worker

    @property
    def was_transferred(self) -> bool | None:
        """True: decode worked on the prefill worker's KV. False: it silently computed the prompt again. None: was not split."""
        if not self.was_split or self.decoding_s is None:
            return None
        return self.transferred_tokens + self.decode_cached_tokens > 0 and self.recomputed_tokens <= 1

    @property
    def phases(self) -> dict[str, float | None]:
        """Seconds per phase, all attempts together: they follow each other without a gap. ``route`` includes the router's queue,
        ``queue`` is the engine's, ``handoff`` is from the last of prefill to the first of decode."""
        seen: dict[str, float] = {}
        for part, seconds in self.parts.items():
            seen[_PHASES[part]] = seen.get(_PHASES[part], 0.0) + seconds
        return {name: seen.get(name) for name in ("route", "queue", "prefill", "handoff", "decode")}

    @property
    def parts(self) -> dict[Part, float]:
        """The same in more parts, without those that did not happen."""
        return self.parts_until(self.finished_s)

    def parts_until(self, until_s: float | None) -> dict[Part, float]:
        """The same, the part it is in as far as ``until_s``; without that one if it is None."""
        spent = dict(self.earlier_s)
        for part, seconds in self._spent(until_s).items():
            spent[part] = spent.get(part, 0.0) + seconds
        if Part.ROUTE in spent:
            spent[Part.QUEUE] = min(self.waited_s, spent[Part.ROUTE])
            spent[Part.ROUTE] -= spent[Part.QUEUE]
        return spent

    def _spent(self, until_s: float | None) -> dict[Part, float]:
        """Seconds per part of the present attempt; of the one it is in up to ``until_s``, and without it if that is None."""
        # A hand-over that has come to nothing, because its worker refused or was lost, was waiting for the next one.
        handing_over = Part.HANDOFF_WAIT if self.decoding_s is None else Part.DECODE_WAIT
        ends = {
            Part.ROUTE: (self.attempt_began_s, self.sent_s),
            Part.PREFILL: (self.sent_s, self.decoding_s if self.handed_off_s is None else self.handed_off_s),
            handing_over: (self.handed_off_s, self.decoding_s),
            Part.DECODE: (self.decoding_s, None),
        }
        spent: dict[Part, float] = {}
        for part, (begin_s, next_s) in ends.items():
            end_s = until_s if next_s is None else next_s
            if begin_s is not None and end_s is not None:
                spent[part] = end_s - begin_s
        if self.queue_s is not None and Part.PREFILL in spent:
            spent[Part.ENGINE_QUEUE] = min(self.queue_s, spent[Part.PREFILL])
            spent[Part.PREFILL] -= spent[Part.ENGINE_QUEUE]
        if Part.DECODE_WAIT in spent and self.transfer_bytes:
            spent[Part.TRANSFER] = min(self.transfer_s, spent[Part.DECODE_WAIT])
            spent[Part.DECODE_WAIT] -= spent[Part.TRANSFER]
        return spent

    @property
    def tokens_per_s(self) -> float | None:
        """Output tokens per second after the first."""
        spent = _less(self.finished_s, self.first_token_s)
        return (self.output_tokens - 1) / spent if spent and self.output_tokens > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, derived values included."""
        derived = {name: getattr(self, name) for name in ("was_split", "was_transferred", "phases", "tokens_per_s")}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _OWN}
        return own | derived


_PHASES = {
    Part.ROUTE: "route",
    Part.QUEUE: "route",
    Part.ENGINE_QUEUE: "queue",
    Part.PREFILL: "prefill",
    Part.HANDOFF_WAIT: "handoff",
    Part.TRANSFER: "handoff",
    Part.DECODE_WAIT: "handoff",
    Part.DECODE: "decode",
}

_OWN = frozenset({"began_s", "earlier_s", "attempt_began_s", "decisions"})
"""What nobody else can make use of, and what is told elsewhere."""


def _less(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else later - earlier


@dataclass(slots=True)
class TimelineBook:
    """The newest ``limit`` timelines of one router, by the id the client knows. Clients choose that id and may use it again."""

    limit: int = 2000
    _by_client: OrderedDict[str, list[Timeline]] = field(default_factory=OrderedDict)
    _count: int = 0

    def add(self, timeline: Timeline) -> None:
        """Keeps a new timeline; forgets the oldest of the least recent client request beyond the limit."""
        self._by_client.setdefault(timeline.client_request, []).append(timeline)
        self._by_client.move_to_end(timeline.client_request)
        self._count += 1
        while self._count > self.limit:
            oldest, timelines = next(iter(self._by_client.items()))
            del timelines[0]
            self._count -= 1
            if not timelines:
                del self._by_client[oldest]

    def of(self, client_request: str) -> list[Timeline]:
        """All timelines of a client's request; empty when unknown (any more).

        Behind a completion's id vLLM puts the number of the prompt, also when there is only one.
        """
        found = list(self._by_client.get(client_request, ()))
        prompt = 0
        while (of_prompt := self._by_client.get(f"{client_request}-{prompt}")) is not None:
            found += of_prompt
            prompt += 1
        return found

    def newest(self, count: int) -> list[Timeline]:
        """The newest requests' timelines, newest first."""
        newest: list[Timeline] = []
        for timelines in reversed(self._by_client.values()):
            newest += reversed(timelines)
            if len(newest) >= count:
                break
        return newest[:count]
