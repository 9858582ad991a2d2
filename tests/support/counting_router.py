"""A router that serves nobody: it counts what it is told to with a real router's books, and tells it as a real one does."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, generate_latest

from core.ids import WorkerId
from core.metrics import of_requests as m
from core.metrics.exposition import ReadingCollector
from core.metrics.tally import Levels, Reading
from core.metrics.words import Outcome, PlanKind, TokenKind, Why
from core.worker import Role
from router.service import ORDINARY
from router.tally import RouterTally


class CountingRouter:
    """Gauges are attributes; ``registry`` is what is scraped."""

    def __init__(self) -> None:
        self.tally = RouterTally()
        self.requests = self.decoding = self.waiting_tokens = 0
        self.oldest_waiting_s = 0.0
        self.registry = CollectorRegistry()
        self.registry.register(ReadingCollector(self.readings))

    def readings(self) -> Sequence[Reading]:
        gauges = {
            m.ROUTER_REQUESTS: self.requests,
            m.DECODING_REQUESTS: self.decoding,
            m.WAITING_TOKENS: self.waiting_tokens,
            m.OLDEST_WAITING: self.oldest_waiting_s,
        }
        return (*self.tally.readings(), *(Levels(entry).set(value) for entry, value in gauges.items()))

    @property
    def exposition(self) -> str:
        return generate_latest(self.registry).decode()

    def serve(self, requests: int = 1, prompt_tokens: int = 100, output_tokens: int = 20, cached_tokens: int = 25) -> None:
        """So many requests come, and are answered."""
        for _ in range(requests):
            self.tally.arrived(ORDINARY, prompt_tokens)
            self.tally.prompt_begun(WorkerId("prefill-1"), Role.PREFILL, prompt_tokens, cached_tokens)
            self.tally.requests.add("default", PlanKind.DISAGGREGATED, Outcome.FINISHED)
            self.tally.tenants.add("default", TokenKind.OUTPUT, by=output_tokens)

    def refuse(self, requests: int = 1) -> None:
        """So many come, and find no room at the door; as many are taken in, and refused in the queue; as many are a mistake."""
        for _ in range(requests):
            self.tally.refused(Why.QUEUE_FULL, ORDINARY)
            self.tally.arrived(ORDINARY, 100)
            self.tally.refusals.add("default", Why.WAITED)
            self.tally.requests.add("default", PlanKind.NONE, Outcome.REFUSED)
            self.tally.refused(Why.INVALID)
