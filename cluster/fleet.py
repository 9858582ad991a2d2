"""The workers of one model: found, created, heard, told and ended. What an event means for one is decided in ``lifecycle``, and how many
there are to be by others. No Ray here: ``placement`` has it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any

from cluster.drain import hard_limit_s
from cluster.heard import heard
from cluster.lifecycle import WELL_ENDED, Died, Event, Instruction, Kill, Limits, TellDraining, TellRole, TellWake, TimePassed, WorkerRecord
from cluster.membership import Create, Members
from cluster.placement import Placement
from cluster.pool_tally import PoolTally
from cluster.signals.workers import PRESENT
from cluster.spec import WorkerReport, WorkerSpec
from cluster.spec_maker import SpecMaker
from core.config import BatonConfig
from core.errors import WorkerLostError
from core.ids import WorkerId
from core.worker import Role, WorkerState

log = logging.getLogger(__name__)

BEAT_TIMEOUT_S = 5.0
_KEPT_FAILURES = 20


class Fleet:
    """``wanted`` is looked at before a worker is created that had to wait for its turn: by then it may be one too many."""

    def __init__(self, config: BatonConfig, specs: SpecMaker, placement: Placement, wanted: Mapping[Role, int], tally: PoolTally) -> None:
        self.members = Members()
        self.reports: dict[WorkerId, WorkerReport] = {}
        """The newest of each worker."""
        self.found: set[WorkerId] = set()
        """Workers that were there before."""
        self.failures: deque[dict[str, Any]] = deque(maxlen=_KEPT_FAILURES)
        """Of workers that ended badly, as plain data."""
        self.start_s: dict[Role, float] = {}
        """How long the newest start of each role took."""
        self.pending: dict[Role, int] = dict.fromkeys(Role, 0)
        """Workers whose start was decided and that are not among the members yet."""
        self._config = config
        self._specs = specs
        self._placement = placement
        self._wanted = wanted
        self._tally = tally
        self._limits = {role: self._limits_of(role) for role in Role}
        self._hearing: dict[WorkerId, asyncio.Task[None]] = {}
        self._relabelling: set[WorkerId] = set()
        """Workers that are being told a role."""
        self._creating: set[asyncio.Task[None]] = set()
        self._telling: set[asyncio.Task[Any]] = set()

    async def find(self) -> None:
        """Takes over all workers that there are, whoever created them."""
        for spec in await self._placement.find():
            self._specs.found(spec)
            self._enter(spec)
            self._tally.adopted(spec.worker)
            self.found.add(spec.worker)
            log.info("controller: adopted %s", spec.worker)

    async def hear(self, wait_s: float) -> None:
        """Asks every worker how it is, those apart that have not answered the last time; and lets time pass for all."""
        for record in self.members:
            if record.state is not WorkerState.GONE and record.worker not in self._hearing:
                self._hearing[record.worker] = asyncio.get_running_loop().create_task(self._hear(record.worker))
        if self._hearing:
            await asyncio.wait(self._hearing.values(), timeout=wait_s)
        for worker, task in list(self._hearing.items()):
            if task.done():
                del self._hearing[worker]
                if error := task.exception():
                    log.error("controller: %s could not be heard: %r", worker, error)
        for record in self.members:
            self.apply(record.worker, TimePassed())

    def apply(self, worker: WorkerId, event: Event) -> None:
        """Something has happened to a worker, or is wanted of it: it is entered, and what follows is begun. Unknown ones are ignored."""
        record = self.members.get(worker)
        if record is None:
            return
        now = time.time()
        instructions = self.members.apply(worker, event, now, self._limits[record.role])
        after = self.members.get(worker) or record
        self._tally.changed(record, after, now)
        if record.ready_after_s is None and after.ready_after_s is not None and worker not in self.found:
            self.start_s[after.role] = after.ready_after_s
        for instruction in instructions:
            self._carry_out(instruction, record.role)

    async def tell_role(self, worker: WorkerId, role: Role) -> None:
        """Has a worker know its new role, before anybody else: it is the worker that a restarted controller learns it from. Raises
        WorkerLostError when it does not answer."""
        self._relabelling.add(worker)
        try:
            if not (await self._placement.relabel(worker, role) or await self._placement.relabel(worker, role)):
                raise WorkerLostError(worker, "it does not answer")
        finally:
            self._relabelling.discard(worker)

    def create(self, action: Create) -> None:
        """Has a worker started, after the pause that the action asks for."""
        self.pending[action.role] += 1
        self._consume_dead(action.role)
        task = asyncio.get_running_loop().create_task(self._create(action))
        self._creating.add(task)
        task.add_done_callback(self._creating.discard)

    def forget_replaced(self) -> None:
        """Gone workers nobody waits for: those that were to go."""
        for record in self.members:
            if record.state is WorkerState.GONE and record.was_to_go:
                self._forget(record.worker)

    async def end_all(self) -> None:
        """Ends every worker, now, and starts no more."""
        for task in (*self._creating, *self._hearing.values()):
            task.cancel()
        await asyncio.gather(*self._telling, *(self._placement.remove(record.worker) for record in self.members), return_exceptions=True)

    def _limits_of(self, role: Role) -> Limits:
        pool = self._config.pool(role)
        drain_s = hard_limit_s(pool.drain_timeout_s, self._config.kv_transfer.lease_s)
        return Limits(pool.start_timeout_s, pool.silence_timeout_s, drain_s)

    async def _hear(self, worker: WorkerId) -> None:
        try:
            report = await self._placement.beat(worker, BEAT_TIMEOUT_S)
        except WorkerLostError as error:
            self.apply(worker, Died(error.reason))
            return
        record = self.members.get(worker)
        if report is None or record is None:
            return
        self.reports[worker] = report
        for event in heard(record, report, self._limits[record.role].silence_s):
            self.apply(worker, event)

    def _carry_out(self, instruction: Instruction, role: Role) -> None:
        worker = instruction.worker
        if isinstance(instruction, Kill):
            self._gone(worker)
            self._tell(self._placement.remove(worker))
        elif isinstance(instruction, TellDraining):
            log.info("controller: %s drains", worker)
            self._tell(self._placement.drain(worker, self._config.pool(role).drain_timeout_s))
        elif isinstance(instruction, TellRole):
            if worker not in self._relabelling:  # else its beat was faster than its answer
                self._tell(self._placement.relabel(worker, instruction.role))
        else:
            self._tell(self._placement.rest(worker, asleep=not isinstance(instruction, TellWake)))

    def _tell(self, work: Coroutine[Any, Any, Any]) -> None:
        """Beside the caller."""
        task = asyncio.get_running_loop().create_task(work)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _gone(self, worker: WorkerId) -> None:
        record = self.members.get(worker)
        assert record is not None
        log.warning("controller: %s is gone: %s", worker, record.phase)
        if record.phase not in WELL_ENDED:
            self.failures.append({"worker": worker, "at": time.time(), "reason": record.phase, "was_ready": record.card is not None})

    async def _create(self, action: Create) -> None:
        role = action.role
        try:
            if action.after_s:
                log.warning("controller: a %s worker died %d times; next try in %.0f s", role, action.restarts, action.after_s)
                await asyncio.sleep(action.after_s)
                if sum(record.role is role for record in self.members if record.state in PRESENT) >= self._wanted[role]:
                    return  # meanwhile it is wanted no more
            spec = self._specs.make(role, action.restarts)
            self._tally.started(role, action.restarts)
            self._enter(spec)
            try:
                await self._placement.create(spec, self._config.pool(role), self._config.engine.env)
            except WorkerLostError as error:
                self.apply(spec.worker, Died(error.reason))
        finally:
            self.pending[role] -= 1

    def _enter(self, spec: WorkerSpec) -> None:
        now = time.time()
        self.members.enter(WorkerRecord(spec.worker, spec.role, spec.epoch, spec.spec_hash, now, heard_at_s=now, restarts=spec.restarts))

    def _consume_dead(self, role: Role) -> None:
        """One dead record is being replaced: it must not be counted as the cause of a second replacement."""
        dead = [record for record in self.members if record.role is role and record.state is WorkerState.GONE and not record.was_to_go]
        if dead:
            self._forget(dead[0].worker)

    def _forget(self, worker: WorkerId) -> None:
        self.members.remove(worker)
        self.reports.pop(worker, None)
