"""One simulation from its configuration, trace and faults to its report: what ``baton simulate`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from core.config import BatonConfig
from core.errors import ConfigError
from core.worker import Role
from simulation.breaking import Breaking
from simulation.course import Course, Moment
from simulation.elastic import ElasticCluster
from simulation.faults import Fault, describe
from simulation.long_trace import LongRequests
from simulation.of_config import cluster_of, gpus_of
from simulation.report import FaultCost, FaultReport, Report
from simulation.reporting import busy_parts, failures, is_good, scaling_of, slices, spread
from simulation.traces import Trace

_MOMENTS = 120
"""Looks at the cluster, from the first arrival to the last."""
_SHORTEST_S = 0.5
_MOST_WORKERS = 10_000

Tell = Callable[[Moment, int], None]
"""Told of every look, with how many requests there will be."""


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """All that it depends on."""

    config: BatonConfig
    trace: Trace
    seconds: float | None = None
    """A shorter trace is repeated, of a longer one the beginning is taken; None: as it is."""
    scale: float = 1.0
    """So many times the trace's own rate."""
    faults: Sequence[Fault] = ()
    seed: int = 1

    def run(self, tell: Tell, *, with_cost: bool = True) -> Report:
        """To the last answer. ``with_cost``: faults are followed by the same again without any. Raises ConfigError for a configuration that
        does not say enough, and for a trace that does not suit it."""
        if (workers := sum(self.config.pool(role).count for role in Role)) > _MOST_WORKERS:
            raise ConfigError(f"{workers:,} workers are too many to be simulated; at most {_MOST_WORKERS:,} can be")
        report = self._once(self.faults, tell)
        if not self.faults or not with_cost:
            return report
        calm = self._once((), tell)
        cost = FaultCost(
            good=calm.good - report.good,
            failed=report.failed - calm.failed,
            ttft_p99_s=report.ttft_s.p99 - calm.ttft_s.p99,
            tpot_p99_s=report.tpot_s.p99 - calm.tpot_s.p99,
            gpu_hours=report.gpu_hours - calm.gpu_hours,
        )
        return msgspec.structs.replace(report, cost=cost)

    def requests(self, cluster: ElasticCluster) -> tuple[Trace, int]:
        """What is offered, and how many of the trace are too long to be."""
        engines = [pool.engine for pool in cluster.spec.pools]
        longest = min(engine.max_model_len for engine in engines)
        fit = [each for each in self.trace.requests if each.prompt_tokens + each.output_tokens <= longest]
        if not fit:
            raise ConfigError(f"every request is longer than `max_model_len`, {longest} tokens", self.trace.name)
        try:
            whole = Trace(self.trace.name, fit, self.trace.block_tokens)
            requests = LongRequests(whole, self.seconds, self.scale, engines[0].block_size_tokens)
        except ValueError as error:
            raise ConfigError(str(error), self.trace.name) from None
        if not len(requests):
            raise ConfigError(f"no request comes in the first {self.seconds} s", self.trace.name)
        return Trace(self.trace.name, requests, engines[0].block_size_tokens), len(self.trace.requests) - len(fit)

    def _once(self, faults: Sequence[Fault], tell: Tell) -> Report:
        cluster = cluster_of(self.config, self.seed)
        trace, left_out = self.requests(cluster)
        offered, last_s = len(trace.requests), trace.requests[-1].arrival_s
        course = Course(cluster, max(_SHORTEST_S, last_s / _MOMENTS), lambda moment: tell(moment, offered))
        breaking = Breaking(cluster, faults, self.config.autoscaling.start_up_s)
        begin = {str(role): self.config.pool(role).count for role in Role}
        records = cluster.replay(trace)
        service, until_s = cluster.spec.service, max(last_s, 1e-9)
        complete = [record for record in records if record.is_complete]
        refused, given_up = failures(records)
        return Report(
            model=self.config.served_name,
            policy=self.config.router.policy,
            trace=trace.name,
            seed=self.seed,
            workers=begin,
            routers=self.config.router.replicas,
            gpus=sum(self.config.pool(role).count * gpus_of(self.config, role) for role in Role),
            ttft_objective_s=service.ttft_s,
            tpot_objective_s=service.tpot_s,
            seconds=last_s,
            offered=offered,
            left_out=left_out,
            empty=self.trace.empty,
            complete=len(complete),
            good=sum(is_good(record, service) for record in records),
            refused=refused,
            given_up=given_up,
            carried_on=sum(bool(record.losses) for record in complete),
            ttft_s=spread(record.ttft_s for record in records if record.ttft_s is not None),
            tpot_s=spread(record.tpot_s for record in complete if record.tpot_s is not None),
            e2e_s=spread(record.ended_s - record.arrival_s for record in complete if record.ended_s is not None),
            plans={"split": sum(bool(each.was_split) for each in complete), "alone": sum(each.was_split is False for each in complete)},
            hit_share=sum(each.cached_tokens for each in complete) / max(1, sum(each.request.prompt_tokens for each in complete)),
            kv_bytes=cluster.network.moved_bytes,
            gpu_hours=sum(cluster.worker_seconds(until_s, role) * gpus_of(self.config, role) for role in Role) / 3600,
            busy=busy_parts(course),
            scaling=scaling_of(cluster) if self.config.autoscaling.enabled else None,
            faults=[FaultReport(each.at_s, describe(each), each in breaking.happened) for each in faults],
            cost=None,
            course=slices(records, course.moments, service),
        )
