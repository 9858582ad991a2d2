"""Carries a script of faults out on a simulated cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from core.ids import WorkerId
from simulation.elastic import ElasticCluster
from simulation.faults import CutLink, Fault, KillWorker, RestartRouter, SlowLink, SlowWorker

_LEARNT_S = 10.0
"""After which a worker whose steps take longer has learnt so: ``cluster.step_fit`` forgets within some fifty steps of its kind."""


class Breaking:
    """Enters all of them in the cluster's clock. ``happened`` then has those whose worker was there."""

    def __init__(self, cluster: ElasticCluster, faults: Sequence[Fault], start_up_s: float) -> None:
        """``start_up_s``: how long a worker takes to start."""
        self.happened: list[Fault] = []
        self._cluster = cluster
        self._start_up_s = start_up_s
        for fault in faults:
            cluster.clock.at(fault.at_s, partial(self._break, fault))

    def _break(self, fault: Fault) -> None:
        cluster, later = self._cluster, self._cluster.clock.later
        if isinstance(fault, RestartRouter):
            self.happened.append(fault)
            cluster.end_router(fault.router)
            later(fault.down_s, lambda: cluster.begin_router(fault.router))
            return
        name = WorkerId(fault.worker)
        worker = cluster.workers.get(name)
        if worker is None:
            return
        self.happened.append(fault)
        match fault:
            case KillWorker():
                cluster.kill(name, self._start_up_s if fault.back_after_s is None else fault.back_after_s)
            case SlowWorker():
                worker.slow(fault.factor)
                later(_LEARNT_S, lambda: worker.learn(fault.factor))
                later(fault.for_s, lambda: worker.slow(1.0))
                later(fault.for_s + _LEARNT_S, lambda: worker.learn(1.0))
            case SlowLink():
                cluster.network.slow(name, fault.factor)
                later(fault.for_s, lambda: cluster.network.slow(name, 1.0))
            case CutLink():
                cluster.network.cut(name)
                later(fault.for_s, lambda: cluster.network.mend(name))
