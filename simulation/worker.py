"""One simulated worker: what ``cluster.runtime.WorkerRuntime`` does, with its parts, around an engine on the virtual clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from cluster.admission import Admission
from cluster.leg_book import Leg, LegBook
from cluster.messages import AbortLegs, AddLeg, FromRouter, Hello, LegKind, Pulse, Refused, StepOutputs, WantKV
from cluster.others_told import OthersTold
from core.handle import KVHandle
from core.ids import LegId, RouterId
from core.step_model import StepModel
from core.worker import OthersLoad, WorkerCard, WorkerLoad
from engine.base import Transfer
from engine.sim_request import Emitted, KeptPrompt
from engine.sim_virtual import Told, VirtualEngine
from engine.vllm_outputs import error_output, finish_reason
from kv_transfer.lease import Lease, LeaseTable
from simulation.adapters import SimAdapters
from simulation.clock import VirtualClock
from simulation.kv_network import KVNetwork
from simulation.kv_news import KVNews
from simulation.legs import completes, engine_request, prefill_stats, queue_s
from simulation.link import SimLink
from simulation.pulls import Pulls
from simulation.slowed_time import scaled, slowed
from simulation.stand_ins import Output, Request

_NEWS_REST_S = 0.02
"""Between two batches of cache events, as in ``cluster.kv_publisher``."""
_PULSE_EACH_S, _REPORT_EACH_S, _PROGRESS_EACH_S = 0.003, 0.003, 0.01


@dataclass(frozen=True, slots=True)
class Beats:
    """How often a worker speaks without being asked."""

    pulse_s: float = 0.3
    """That it is there, and its load; ``RouterConfig.heartbeat_s``."""
    report_s: float = 0.05
    """Its load while it works, and other routers' legs when they have changed. A real worker sends its load with every step's tokens, to
    those who get any, and news of others' legs as often as this to up to four routers (``cluster.others_told``); one message per step would
    be most of a simulation."""
    progress_s: float = 1.0
    """Tokens made since a leg's first. The first and the last of a leg are told when they are made."""

    @classmethod
    def of_many(cls, workers: int, pulse_s: float) -> Beats:
        """Of so many workers together no more than some hundreds per second, or a thousand would do little else. What a worker tells of an
        answer's first and last token, and its load with that, comes when it happens in any case."""
        usual = cls()
        return cls(
            max(pulse_s, workers * _PULSE_EACH_S),
            max(usual.report_s, workers * _REPORT_EACH_S),
            max(usual.progress_s, workers * _PROGRESS_EACH_S),
        )


class SimWorker:
    """``links`` and ``pulls.peers`` are filled when the cluster is put together; ``start`` then begins its beats."""

    def __init__(
        self,
        card: WorkerCard,
        engine: VirtualEngine,
        clock: VirtualClock,
        network: KVNetwork,
        admissions: Mapping[LegKind, Sequence[Admission]],
        step: StepModel,
        beats: Beats,
        pull_timeout_s: float = 10.0,
    ) -> None:
        """``step`` is what it says of its own step times: a running worker has learnt them in its first seconds."""
        self.card = card
        self.engine = engine
        self.links: dict[RouterId, SimLink] = {}
        self.legs = LegBook()
        self._others_told = OthersTold()
        self.adapters = SimAdapters(engine)
        self.leases = LeaseTable()
        self.pulls = Pulls(card.worker, engine, clock, network, self._live, pull_timeout_s)
        self._clock = clock
        self._admissions = admissions
        self._usual = engine.timing
        self._told = self._step = step
        self._beats = beats
        self._completing: set[LegId] = set()
        """Legs whose end is the end of the whole answer."""
        self._transfers: dict[RouterId, list[Transfer]] = defaultdict(list)
        self._wakes_s = inf
        self._news = KVNews(card.epoch)
        self._news_due = False
        self._followers: dict[RouterId, None] = {}
        """Routers that have asked for cache events."""
        self._ended = False

    def start(self, after_s: float) -> None:
        """Until ``end``."""
        self._every(after_s, self._beats.pulse_s, self._pulse)
        self._every(after_s, self._beats.report_s, self._report)
        self._every(after_s, self._beats.progress_s, self._tell_progress)
        self._every(after_s, self.engine.config.lease_s / 3, self.pulls.renew_waiting)

    def end(self) -> None:
        """It says nothing any more. What it has not said by then, nobody hears."""
        self._ended = True

    def die(self) -> None:
        """It is gone from one moment to the next, with all that it had; nobody is told."""
        self._ended = self.pulls.gone = True

    def slow(self, factor: float) -> None:
        """Its steps take so many times as long as usual from now on, the one under way excepted; 1 ends that."""
        self._live()
        self.engine.retime(slowed(self._usual, factor), self._clock.now())
        self._live()

    def learn(self, factor: float) -> None:
        """It has seen by now that its steps take so many times as long as usual, and says so."""
        self._step = scaled(self._told, factor)

    def become(self, card: WorkerCard) -> None:
        """Its role or state is another one from now on, and all routers know."""
        self.card = card
        for link in self.links.values():
            link.card = card

    @property
    def idle(self) -> bool:
        """Whether no leg runs and no KV is kept for anybody."""
        return not len(self.legs) and not len(self.leases)

    def load(self, others: OthersLoad = OthersLoad()) -> WorkerLoad:  # noqa: B008 - frozen
        """As it is now."""
        now_s = self._clock.now()
        stats = self.engine.stats(now_s)
        return WorkerLoad(
            running=stats.running,
            waiting=stats.waiting,
            free_blocks=stats.free_blocks,
            num_blocks=stats.num_blocks,
            leased_blocks=self.leases.blocks,
            stranded_blocks=self.leases.stranded_blocks(now_s),
            others=others,
            step=self._step,
            adapters=self.adapters.load(self.legs.adapters_in_use),
        )

    # -- from routers --------------------------------------------------------------------------------------------------

    def hear(self, router: RouterId, message: FromRouter, frames: Sequence[Any]) -> None:
        """A message has arrived."""
        if self.pulls.gone:
            return
        self._live()
        if isinstance(message, AddLeg):
            self._add(router, message, frames[0])
        elif isinstance(message, AbortLegs):
            for leg in message.legs:
                self._abort(leg)
        elif isinstance(message, Hello):
            self.legs.queued(router, message.queued_tokens)
        elif isinstance(message, WantKV):
            self._followers[router] = None
            for part in self._news.snapshot(message.number):
                self.links[router].tell(part)
        self._live()

    def _add(self, router: RouterId, add: AddLeg, request: Request) -> None:
        room = self.legs.room(self.card.facts, self.load())
        reason = next((reason for admission in self._admissions[add.kind] if (reason := admission.refusal(add, room))), None)
        if reason is not None:
            self.links[router].tell(Refused(add.leg, self.card.epoch, reason, busy=True))
            return
        adapter = request.lora_request.lora_name if request.lora_request is not None else None
        wait_s = 0.0 if adapter is None else self.adapters.wait_s(adapter, self.legs.uses, self._clock.now())
        if wait_s is None:
            self.links[router].tell(Refused(add.leg, self.card.epoch, "requests with other adapters have all slots"))
            return
        self.legs.enter(router, add, adapter)
        if completes(add, request):
            self._completing.add(add.leg)
        if wait_s:
            self._clock.later(wait_s, lambda: self._add_late(add, request))
        else:
            self.engine.add(engine_request(add, request), self._clock.now())

    def _add_late(self, add: AddLeg, request: Request) -> None:
        """Its adapter is there."""
        self._live()
        if self.legs.get(add.leg) is not None:  # else it was aborted meanwhile
            self.engine.add(engine_request(add, request), self._clock.now())
        self._live()

    def _abort(self, leg: LegId) -> None:
        now_s = self._clock.now()
        self._end(leg)
        self.pulls.dismiss(self.engine.abort(leg, now_s))
        self.engine.release(leg, now_s)

    def _end(self, leg: LegId) -> None:
        self.legs.end(leg)
        self._completing.discard(leg)

    # -- from the engine -----------------------------------------------------------------------------------------------

    def _live(self) -> None:
        """Lets the engine live until now, and sees to it that it goes on when it has something to do."""
        if self.pulls.gone:
            return
        now_s = self._clock.now()
        if self._wakes_s <= now_s:
            self._wakes_s = inf
        for told in self.engine.advance(now_s):
            self._deliver(told)
        next_s = self.engine.next_event_s
        if next_s < self._wakes_s:
            self._wakes_s = next_s
            self._clock.at(next_s, self._live)

    def _deliver(self, told: Told) -> None:
        for transfer in told.transfers:
            if leg := self.legs.get(transfer.leg):
                self._transfers[leg.owner].append(transfer)
        if told.emitted:
            self._tell_outputs(told.emitted)
        for name in told.released:
            self.leases.end(name)
        if told.block_events:
            self._news.heard(told.block_events)
            if not self._news_due and self._news.has_news:
                self._news_due = True
                self._clock.later(_NEWS_REST_S, self._tell_news)
        for pull in told.pulls:
            self.pulls.begin(pull)
        for remote in told.dismissed:
            self.pulls.dismiss(remote)

    def _tell_outputs(self, emitted: Sequence[Emitted]) -> None:
        outputs: dict[RouterId, list[Any]] = defaultdict(list)
        handles: dict[RouterId, dict[LegId, KVHandle]] = defaultdict(dict)
        waited_s: dict[RouterId, dict[LegId, float]] = defaultdict(dict)
        for one in emitted:
            leg = self.legs.get(one.leg)
            if leg is None:
                continue  # aborted meanwhile
            outputs[leg.owner].append(self._output(one, leg))
            if one.counts is not None:
                waited_s[leg.owner][one.leg] = queue_s(one)
            if one.kept is not None and leg.kind is LegKind.PREFILL:
                handles[leg.owner][one.leg] = self._keep(leg.owner, one.leg, one.kept)
            if one.ended:
                self._end(one.leg)
        for router, theirs in outputs.items():
            self._tell(router, theirs, handles[router], waited_s[router])

    def _output(self, one: Emitted, leg: Leg) -> Any:
        """As the router reads it, with the tokens since the leg was last told of."""
        if one.token is None:
            return error_output(one.leg)
        tokens = 1 if one.timeline is None else one.timeline.tokens - leg.told_tokens
        self.legs.told(leg, tokens)
        output = Output(one.leg, [0] * tokens, prefill_stats=None if one.counts is None else prefill_stats(one.counts))
        if one.ended:
            output.finish_reason = finish_reason("stop" if one.leg in self._completing else "length")
        if one.timeline is not None:
            output.longest_gap_s = one.timeline.longest_gap_s
        return output

    def _keep(self, router: RouterId, leg: LegId, kept: KeptPrompt) -> KVHandle:
        lease_s = self.engine.config.lease_s
        self.leases.grant(Lease(leg, router, len(kept.blocks), self._clock.now() + lease_s))
        return KVHandle(self.card.worker, self.card.epoch, leg, kept.tokens, len(kept.blocks), lease_s, {})

    def _tell_progress(self) -> None:
        self._live()
        now_s = self._clock.now()
        for router, names in self.legs.by_owner().items():
            outputs: list[Any] = []
            for name in names:
                leg = self.legs.get(name)
                made = self.engine.tokens_made(name, now_s)
                if leg is not None and leg.told_tokens and made and made > leg.told_tokens:
                    outputs.append(Output(name, [0] * (made - leg.told_tokens)))
                    self.legs.told(leg, made - leg.told_tokens)
            if outputs:
                self._tell(router, outputs)

    def _tell(
        self,
        router: RouterId,
        outputs: Sequence[Any],
        handles: Mapping[LegId, KVHandle] | None = None,
        waited_s: Mapping[LegId, float] | None = None,
    ) -> None:
        load, transfers = self._load_for(router), self._transfers.pop(router, ())
        self.links[router].tell(StepOutputs(self.card.epoch, load, dict(handles or {}), transfers, dict(waited_s or {})), outputs)

    def _pulse(self) -> None:
        for router, link in self.links.items():
            link.tell(Pulse(self.card.epoch, self._load_for(router), self._news.sequence))

    def _load_for(self, router: RouterId) -> WorkerLoad:
        others = self.legs.others(router)
        self._others_told.told(router, others)
        return self.load(others)

    def _tell_news(self) -> None:
        self._news_due = False
        if self.pulls.gone:
            return
        changes = self._news.take()
        for router in self._followers:
            self.links[router].tell(changes)

    def _report(self) -> None:
        for router in self.links:
            if self.engine.busy or self._others_told.is_news(router, self.legs.others(router)):
                self._tell(router, ())

    def _every(self, first_s: float, period_s: float, what: Callable[[], None]) -> None:
        def again() -> None:
            if not self._ended:
                what()
                self._clock.later(period_s, again)

        self._clock.later(first_s, again)
