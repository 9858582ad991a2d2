"""The autoscaler's loop beside the controller's: numbers in, a plan, and what the plan wants done. ``run()`` is the loop around ``step()``.

It waits for routers, Prometheus and workers, so it is a task of its own: neither the controller's step nor the routers' long polls wait
for it. Plans are made on a thread, for a thousand workers take tens of milliseconds, and the fit of a season takes more.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from autoscaler.base import Scaler
from autoscaler.plan import Action, Add, Drain, Plan, Relabel, Wake
from autoscaler.signals import PoolSignals, Signals, WorkerSignal, present
from cluster.budget_claims import BudgetClaims
from cluster.scaling_actions import RecentActions
from cluster.scaling_course import Course
from cluster.scaling_memory import ScalingMemory
from cluster.scaling_tally import ScalingTally
from cluster.signals.base import SignalsMissingError, SignalSource, just_come, named
from core.errors import BatonError
from core.ids import WorkerId
from core.worker import Role

log = logging.getLogger(__name__)

KEPT_PLANS = 200
_MOVES_WAIT_S = 1.0
"""For workers that are told another role, or to wake. One that does not answer is waited for beside the next plans."""
_KEEPS_EVERY_S = 10.0
"""What a scaler remembers changes slowly; what was done is written down at once."""


class Pools(Protocol):
    """What a scaler's plans are carried out by: the controller. All but ``workers`` also change how many workers are wanted."""

    def workers(self) -> tuple[WorkerSignal, ...]:
        """All there are now, and those that are on their way."""

    async def relabel(self, worker: WorkerId, role: Role) -> None:
        """Raises BatonError where that cannot be; likewise the others."""

    async def wake(self, worker: WorkerId, role: Role) -> None:
        """Returns before it is awake."""

    async def sleep(self, worker: WorkerId) -> None:
        """Ends it where its engine cannot sleep. Returns before it is done."""

    async def drain(self, worker: WorkerId, role: Role) -> None:
        """Also one that was asked for and is not there yet."""

    async def add(self, role: Role, count: int) -> None:
        """They are created by and by."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One plan with what it was made from, but for what there was of workers."""

    plan: Plan
    signals: Signals
    took_s: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data. Of inputs, those that are known."""
        inputs = {str(name): msgspec.to_builtins(reading) for name, reading in named(self.signals).items()}
        return {**msgspec.to_builtins(self.plan), "text": self.plan.text, "inputs": inputs, "took_s": self.took_s}


class Scaling:
    """``keep`` is given what the next controller's scaler is to remember, and ``kept`` is what this one's was given. ``claims`` are made
    where a budget is shared with other models. ``routers`` are asked as well where ``source`` is another one."""

    def __init__(
        self,
        scaler: Scaler[Any],
        source: SignalSource,
        pools: Pools,
        interval_s: float,
        dry_run: bool,
        keep: Callable[[bytes], None],
        kept: bytes | None = None,
        clock: Callable[[], float] = time.time,
        claims: BudgetClaims | None = None,
        routers: SignalSource | None = None,
    ) -> None:
        self.tally = ScalingTally()
        self.actions = RecentActions()
        self.course = Course()
        self._scaler = scaler
        self._source = source
        self._routers = routers
        self._pools = pools
        self._interval_s = interval_s
        self._dry_run = dry_run
        self._keep = keep
        self._clock = clock
        self._claims = claims
        self._memory = ScalingMemory(scaler)
        self._state = self._memory.read(kept)
        self._kept_s = -_KEEPS_EVERY_S
        self._kept_starts: tuple[float | None, ...] = ()
        self._turns: deque[Turn] = deque(maxlen=KEPT_PLANS)
        self._told = ""
        self._moves: set[asyncio.Task[None]] = set()

    def newest(self, count: int) -> list[Turn]:
        """So many, the newest first."""
        return list(reversed(self._turns))[: max(0, count)]

    async def run(self) -> None:
        """Until cancelled. Whatever a round raises, the next one is tried."""
        try:
            while True:
                began_s = time.monotonic()
                try:
                    await self.step()
                except Exception:
                    self.tally.failed()
                    log.exception("scaling: a round failed; trying again")
                await asyncio.sleep(max(0.0, self._interval_s - (time.monotonic() - began_s)))
        finally:
            for move in self._moves:
                move.cancel()
            await self._source.close()
            if self._routers is not None:
                await self._routers.close()

    async def step(self) -> None:
        """Reads, plans, tells, does."""
        signals, trouble = await self._look()
        if self._claims is not None:
            last = self._turns[-1].plan if self._turns else None
            signals = msgspec.structs.replace(signals, granted=await self._claims.granted(self._pools.workers(), last))
            signals = msgspec.structs.replace(signals, workers=self._pools.workers())
        now_s, began_s = self._clock(), time.perf_counter()
        plan, state = await asyncio.to_thread(self._scaler.plan, signals, self._state, now_s)
        took_s = time.perf_counter() - began_s
        plan = msgspec.structs.replace(plan, held=trouble or plan.held, dry_run=self._dry_run)
        self._state = state
        self._turns.append(Turn(plan, msgspec.structs.replace(signals, workers=()), took_s))  # of a thousand workers 27 MB otherwise
        self.tally.planned(signals, plan, took_s, self.actions.planned(plan))
        self.course.planned(plan)
        self._tell(plan)
        if not plan.dry_run:
            await self._carry_out(plan)
        starts = tuple(pool.horizon_s for pool in plan.pools)  # what they took: the next controller finds workers, and sees none start
        if plan.actions or starts != self._kept_starts or now_s - self._kept_s >= _KEEPS_EVERY_S:
            self._kept_s, self._kept_starts = now_s, starts
            self._keep(self._memory.written(state))

    async def _look(self) -> tuple[Signals, str]:
        """What is known, and why it is not more. Beside another source routers are asked, too: for what has just come, and for who waits
        while that source is silent."""
        said, routers = await asyncio.gather(_read(self._source), _read(self._routers))
        workers = self._pools.workers()
        signals, trouble = (just_come(said, routers), "") if isinstance(said, Signals) else _who_waits(said, routers, workers)
        return msgspec.structs.replace(signals, workers=workers), trouble

    def _tell(self, plan: Plan) -> None:
        """To the log, when it says something else than the last one: other numbers of tokens and seconds are not that."""
        targets = [(pool.role, pool.ready, pool.starting, pool.target, pool.clamps) for pool in plan.pools]
        said = f"{targets} {plan.actions} {re.sub(r'[0-9.]+', '#', f'{plan.held} {plan.warnings}')}"
        if said != self._told:
            self._told = said
            log.info("scaling: %s", plan.text.replace("\n", "\nscaling: "))

    async def _carry_out(self, plan: Plan) -> None:
        """Begun in the plan's order; those that workers have to answer go on beside the rest. What cannot be done is told, and planned
        anew."""
        waits = [action for action in plan.actions if isinstance(action, Relabel | Wake)]
        moves = [asyncio.create_task(self._do(action)) for action in waits]
        self._moves.update(moves)
        for move in moves:
            move.add_done_callback(self._moves.discard)
        await asyncio.sleep(0)  # they begin
        for action in plan.actions:
            if action not in waits:
                await self._do(action)
        if moves:
            await asyncio.wait(moves, timeout=_MOVES_WAIT_S)

    async def _do(self, action: Action) -> None:
        try:
            match action:
                case Relabel():
                    await self._pools.relabel(action.worker, action.role)
                case Wake():
                    await self._pools.wake(action.worker, action.role)
                case Add():
                    await self._pools.add(action.role, action.count)
                case Drain():
                    await self._drain(action)
        except BatonError as error:
            self.tally.failed_to(action)
            log.warning("scaling: %s", error)

    async def _drain(self, drain: Drain) -> None:
        if drain.then_sleep:
            await self._pools.sleep(drain.worker)
        else:
            await self._pools.drain(drain.worker, drain.role)


async def _read(source: SignalSource | None) -> Signals | str:
    """What a source says, or why it says nothing."""
    try:
        return await source.read() if source is not None else ""
    except SignalsMissingError as error:
        return str(error)


def _who_waits(trouble: str, routers: Signals | str, workers: Iterable[WorkerSignal]) -> tuple[Signals, str]:
    """What routers hold for somebody who is yet to be started: all that is acted on while the source is silent, and so all that is told
    of it. Nothing where each role has somebody."""
    if len({worker.role for worker in present(workers)}) == len(Role):
        return Signals(), trouble
    if isinstance(routers, str):
        return Signals(), "; ".join(filter(None, (trouble, routers)))
    return Signals(prefill=PoolSignals(routers.prefill.queue_tokens, routers.prefill.queue_age_s)), trouble
