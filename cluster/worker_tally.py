"""What a worker counts of itself, for Prometheus. Told of what happened; whose it is, others add."""

from __future__ import annotations

from collections.abc import Sequence

from core.metrics import of_workers as m
from core.metrics.tally import Counts, Levels, Reading, Spreads
from core.metrics.words import AdapterFate, LegRefusal, StepKind
from core.worker import WorkerLoad
from engine.base import EngineStats, StepReport


class WorkerTally:
    """One per worker life."""

    def __init__(self) -> None:
        self._expired = Counts(m.EXPIRED_LEASES)
        self._refused = Counts(m.REFUSED_LEGS, [(reason,) for reason in LegRefusal])
        self._adapter_loads = Counts(m.ADAPTER_LOADS, [(fate,) for fate in AdapterFate])
        self._steps = Spreads(m.STEP, [(work,) for work in StepKind])

    def stepped(self, report: StepReport) -> None:
        """The engine has told of a step, or of some."""
        for sample in report.samples:
            self._steps.observe(sample.seconds, StepKind.PROMPT if sample.work.prefill_tokens else StepKind.DECODE)
        if report.expired:
            self._expired.add(by=len(report.expired))

    def refused(self, reason: LegRefusal) -> None:
        """A leg was not taken."""
        self._refused.add(reason)

    def adapter_loaded(self, fate: AdapterFate) -> None:
        """An adapter was loaded, or could not be."""
        self._adapter_loads.add(fate)

    def readings(self, load: WorkerLoad, stats: EngineStats, legs: int, draining: bool) -> Sequence[Reading]:
        """With what it has now."""
        received, computed = Counts(m.RECEIVED_BYTES), Counts(m.COMPUTED_TOKENS)
        received.add(by=stats.received_bytes)
        computed.add(by=stats.computed_prompt_tokens)
        return (
            Levels(m.RUNNING).set(load.running),
            Levels(m.WAITING).set(load.waiting),
            Levels(m.LEGS).set(legs),
            Levels(m.BLOCKS).set(load.num_blocks),
            Levels(m.FREE_BLOCKS).set(load.free_blocks),
            Levels(m.LEASED_BLOCKS).set(load.leased_blocks),
            Levels(m.STRANDED_BLOCKS).set(load.stranded_blocks),
            Levels(m.DRAINING).set(draining),
            Levels(m.LOADED_ADAPTERS).set(len(load.adapters.names) if load.adapters is not None else 0),
            *(self._expired, self._refused, received, computed, self._steps, self._adapter_loads),
        )
