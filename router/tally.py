"""What one router counts of its requests, for Prometheus. Told of what happened; decides nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product

from core.config import BatonConfig
from core.ids import WorkerId
from core.metrics import of_requests as m
from core.metrics.tally import MOST_PAIRS, OTHER, Counts, Levels, Reading, Spread, Spreads, Sum
from core.metrics.words import Decided, Handoff, Kept, Outcome, Part, PlanKind, TokenKind, TokenSource, Why
from core.worker import Role
from router.instructions import Fail
from router.kept import kept
from router.outcome import WELL, outcome_of, plan_of, refusal_of
from router.service import WantedService
from router.timeline import Timeline

_PLANS_ENDED = (
    *product((PlanKind.DISAGGREGATED, PlanKind.LOCAL), Outcome),
    *((PlanKind.NONE, outcome) for outcome in Outcome if outcome not in WELL),
)
"""How requests end, by who served them. All begin at zero: of a series that begins with a burst, ``rate()`` misses the burst."""
_AT_THE_DOOR = (Why.UNAUTHORIZED, Why.INVALID, Why.TOO_LARGE, Why.SLOW_BODY)


@dataclass(frozen=True, slots=True)
class Meter:
    """Where the tokens of one class's requests are counted. Kept with each of them: nothing is looked up for a token."""

    tokens: Sum
    gaps: Spread
    first: Spread


class RouterTally:
    """One per router, beside its dispatcher. ``classes`` and ``tenants`` are those there are by name; all others are one."""

    def __init__(self, classes: Collection[str] = ("default",), tenants: Collection[str] = ("default",)) -> None:
        self._classes = {name: name for name in classes}
        self._tenants = {name: name for name in tenants}
        known = [(name,) for name in classes]
        refusals = [*product(classes, (why for why in Why if why not in _AT_THE_DOOR)), *(("", why) for why in _AT_THE_DOOR)]
        self.arrivals = Counts(m.ARRIVALS, known)
        self.requests = Counts(m.REQUESTS, ((name, *ended) for name, ended in product(classes, _PLANS_ENDED)))
        self.resumed = Counts(m.RESUMED, product(classes, Outcome))
        self.losses = Counts(m.ENGINE_LOSSES)
        self.refusals = Counts(m.REFUSALS, refusals)
        self.objectives = Counts(m.OBJECTIVES, product(classes, Kept))
        self.ttft, self.tpot, self.gaps = Spreads(m.TTFT, known), Spreads(m.TPOT, known), Spreads(m.GAP, known)
        self.total = Spreads(m.REQUEST, known)
        self.phases = Spreads(m.PHASE, [(part,) for part in Part])
        self.prompt_tokens, self.output_tokens = Counts(m.PROMPT_TOKENS, known), Counts(m.OUTPUT_TOKENS, known)
        self.tenants = Counts(m.TENANT_TOKENS, product([*tenants, OTHER], TokenKind))
        self.handoffs = Counts(m.HANDOFFS, [(result,) for result in Handoff])
        self.handoff_tokens = Counts(m.HANDOFF_TOKENS, [(source,) for source in TokenSource])
        transfers, moved, seconds = (Counts(entry, most=MOST_PAIRS) for entry in (m.KV_TRANSFERS, m.KV_BYTES, m.KV_SECONDS))
        self.pairs = (transfers, moved, seconds, Levels(m.KV_BANDWIDTH, most=MOST_PAIRS))
        self.prefixes = (Counts(m.PREFIX_HITS), Counts(m.PREFIX_ASKED))
        self.decisions = Spreads(m.DECISION, [(result,) for result in Decided])
        self.leg_refusals = Counts(m.LEG_REFUSALS)
        self._meters: dict[str, Meter] = {}
        self._members: dict[WorkerId, Role] = {}

    @classmethod
    def of_config(cls, config: BatonConfig) -> RouterTally:
        """With the classes and tenants that are configured."""
        objectives = config.objectives
        return cls(("default", *objectives.classes), sorted({"default", *objectives.tenants}))

    def readings(self) -> Sequence[Reading]:
        """All of it, as it is now."""
        return (
            *(self.arrivals, self.requests, self.resumed, self.losses, self.refusals, self.objectives),
            *(self.ttft, self.tpot, self.gaps, self.total, self.phases),
            *(self.prompt_tokens, self.output_tokens, self.tenants),
            *(self.handoffs, self.handoff_tokens, *self.pairs, *self.prefixes),
            *(self.decisions, self.leg_refusals),
        )

    # -- at the door ---------------------------------------------------------------------------------------------------

    def refused(self, why: Why, service: WantedService | None = None, requests: int = 1) -> None:
        """Before it was taken in. ``service`` None: nobody knows what it was to get."""
        if service is None:
            self.refusals.add("", why, by=requests)
            return
        name = self._class(service)
        self.refusals.add(name, why, by=requests)
        if service.has_objective:
            self.objectives.add(name, Kept.REFUSED, by=requests)

    def arrived(self, service: WantedService, prompt_tokens: int) -> Meter:
        """It is taken in. Where its tokens are to be counted."""
        name = self._class(service)
        self.arrivals.add(name)
        self.prompt_tokens.add(name, by=prompt_tokens)
        meter = self._meters.get(name)
        if meter is None:
            meter = self._meters[name] = Meter(self.output_tokens.cell(name), self.gaps.cell(name), self.ttft.cell(name))
        return meter

    # -- workers -------------------------------------------------------------------------------------------------------

    def joined(self, worker: WorkerId, role: Role) -> None:
        """It is a member, or has another role from now on: what is counted of it begins at zero, not with the first of it."""
        if self._members.get(worker) is role:
            return
        self._members[worker] = role
        for of_worker in (*self.prefixes, self.leg_refusals):
            of_worker.expect(worker, role)
        for peer, theirs in self._members.items():
            if theirs is not role:
                pair = (worker, peer) if role is Role.PREFILL else (peer, worker)
                if not all(counts.expect(*pair) for counts in self.pairs[:3]):
                    return

    def left(self, worker: WorkerId) -> None:
        """It is no member any more."""
        self._members.pop(worker, None)
        for of_worker in (*self.prefixes, self.leg_refusals):
            of_worker.forget("worker", worker)
        for of_pair in self.pairs:
            of_pair.forget("prefill", worker)
            of_pair.forget("decode", worker)

    # -- under way -----------------------------------------------------------------------------------------------------

    def decided(self, result: Decided, seconds: float) -> None:
        """Workers were looked for."""
        self.decisions.observe(seconds, result)

    def leg_refused(self, worker: WorkerId, role: Role | None) -> None:
        """A worker did not take a leg. ``role`` None: it is no member any more, and nobody is left to tell of."""
        if role is not None:
            self.leg_refusals.add(worker, role)

    def prompt_begun(self, worker: WorkerId, role: Role, prompt_tokens: int, cached_tokens: int) -> None:
        """A worker has computed a prompt, less what it had cached."""
        hits, asked = self.prefixes
        hits.add(worker, role, by=cached_tokens)
        asked.add(worker, role, by=prompt_tokens)

    def handed_over(self, timeline: Timeline) -> None:
        """The decode worker's first token came: what was moved is in the timeline."""
        self.handoffs.add(Handoff.RECOMPUTED if timeline.was_transferred is False else Handoff.TRANSFERRED)
        tokens = self.handoff_tokens
        tokens.add(TokenSource.TRANSFERRED, by=timeline.transferred_tokens)
        tokens.add(TokenSource.CACHED, by=timeline.decode_cached_tokens)
        tokens.add(TokenSource.RECOMPUTED, by=max(0, timeline.recomputed_tokens - 1))
        if timeline.transfer_bytes and timeline.prefill_worker is not None and timeline.decode_worker is not None:
            pair = (timeline.prefill_worker, timeline.decode_worker)
            transfers, moved, seconds, bandwidth = self.pairs
            transfers.add(*pair)
            moved.add(*pair, by=timeline.transfer_bytes)
            seconds.add(*pair, by=timeline.transfer_s)
            if timeline.transfer_s > 0:
                bandwidth.set(timeline.transfer_bytes / timeline.transfer_s, *pair)

    # -- at the end ----------------------------------------------------------------------------------------------------

    def ended(self, timeline: Timeline, service: WantedService, fail: Fail | None) -> None:
        """Nothing more will come of it. ``fail`` is what its client was told instead of an end."""
        name = self._class(service)
        outcome = outcome_of(timeline, fail)
        self.requests.add(name, plan_of(timeline), outcome)
        self.losses.add(by=timeline.losses)
        if timeline.resumes or timeline.losses:
            self.resumed.add(name, outcome)
        if outcome is Outcome.REFUSED and fail is not None:
            self.refusals.add(name, refusal_of(fail))
        if (result := kept(timeline, service, outcome)) is not None:
            self.objectives.add(name, result)
        tenant = self._tenants.get(service.tenant, OTHER)
        self.tenants.add(tenant, TokenKind.PROMPT, by=timeline.prompt_tokens)
        self.tenants.add(tenant, TokenKind.OUTPUT, by=timeline.output_tokens)
        if outcome in WELL:
            seen = [(self.total, timeline.finished_s or 0.0, name)]
            if (tpot_s := timeline.tpot_s) is not None:
                seen.append((self.tpot, tpot_s, name))
            seen += [(self.phases, seconds, part) for part, seconds in timeline.parts.items()]
            for spreads, seconds, label in seen:
                spreads.observe(seconds, label)
                if timeline.trace_id:
                    spreads.exemplify(seconds, timeline.trace_id, timeline.arrived_at + (timeline.finished_s or 0.0), label)

    def _class(self, service: WantedService) -> str:
        return self._classes.get(service.class_name, OTHER)
