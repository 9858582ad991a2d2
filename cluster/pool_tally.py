"""What the controller counts of its pools, for Prometheus. Told of every change of a record; decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from cluster.lifecycle import WorkerRecord
from core.ids import WorkerId
from core.metrics import of_pools as m
from core.metrics.tally import Counts, Levels, Reading, Spreads
from core.metrics.words import End
from core.worker import Role, WorkerState


class PoolTally:
    """One per controller life: counts begin anew with the next, as Prometheus expects of counters."""

    def __init__(self) -> None:
        roles = [(role,) for role in Role]
        self._starts, self._restarts, self._drains = (Counts(entry, roles) for entry in (m.STARTS, m.RESTARTS, m.DRAINS))
        self._ends = Counts(m.ENDS, product(Role, End))
        self._relabels, self._sleeps = Counts(m.RELABELS, roles), Counts(m.SLEEPS, roles)
        self._start_s, self._drain_s, self._wake_s = (Spreads(entry, roles) for entry in (m.START, m.DRAIN, m.WAKE))
        self._step_s = Spreads(m.STEP)
        self._failed_steps = Counts(m.FAILED_STEPS)
        self._adopted: set[WorkerId] = set()

    def adopted(self, worker: WorkerId) -> None:
        """It was there before this controller: nobody knows how long its start took."""
        self._adopted.add(worker)

    def started(self, role: Role, restarts: int) -> None:
        """A worker was asked for; so many before it held its place and died."""
        self._starts.add(role)
        if restarts:
            self._restarts.add(role)

    def changed(self, before: WorkerRecord, after: WorkerRecord, now_s: float) -> None:
        """An event was applied to a record. It may well have changed nothing."""
        role = after.role
        if after.draining_since_s is not None and before.draining_since_s is None:
            self._drains.add(role)
        if role is not before.role:
            self._relabels.add(role)
        if after.state is before.state:
            return
        if after.state is WorkerState.READY:
            if before.waking_since_s is not None:
                self._wake_s.observe(now_s - before.waking_since_s, role)
            elif after.worker not in self._adopted:
                self._start_s.observe(after.ready_after_s or 0.0, role)
        if after.state is WorkerState.SLEEPING and before.state is WorkerState.DRAINING:
            self._sleeps.add(role)
        if after.state is WorkerState.GONE:
            self._adopted.discard(after.worker)
            self._ends.add(role, after.end or End.DIED)
        drained = after.state in (WorkerState.SLEEPING, WorkerState.GONE) and before.state is not WorkerState.SLEEPING
        if drained and after.draining_since_s is not None:
            self._drain_s.observe(now_s - after.draining_since_s, role)

    def stepped(self, seconds: float, failed: bool) -> None:
        """The controller's loop went round."""
        self._step_s.observe(seconds)
        if failed:
            self._failed_steps.add()

    def readings(self, records: Iterable[WorkerRecord], wanted: Mapping[Role, int], routers: int) -> Sequence[Reading]:
        """With what there is now."""
        workers, wanting, states = Levels(m.WORKERS), Levels(m.WANTED), Levels(m.STATE)
        count: Counter[tuple[Role, WorkerState]] = Counter()
        for record in records:
            count[record.role, record.state] += 1
            states.set(1, record.worker, record.role, record.state)
        for role, state in product(Role, WorkerState):
            workers.set(count[role, state], role, state)
        for role, number in wanted.items():
            wanting.set(number, role)
        return (
            *(workers, wanting, states, Levels(m.ROUTERS).set(routers)),
            *(self._starts, self._restarts, self._ends, self._drains, self._drain_s, self._start_s),
            *(self._relabels, self._sleeps, self._wake_s),
            *(self._step_s, self._failed_steps),
        )
