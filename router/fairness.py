"""Fairness between tenants: virtual token counters, after Sheng et al., "Fairness in Serving Large Language Models" (OSDI'24).

Every tenant has a counter of the service it got: a token of a prompt counts 1, a token of output 2, as they are about twice as dear,
divided by the tenant's weight. Among those that wait, the one with the smallest counter is next.

While two tenants always have somebody waiting, their counters differ by no more than one prompt and the output of all that runs at
once: whoever is ahead gets nothing placed, and only what it runs already goes on. Over any such time, what they got differs by no
more than twice that, and no order that never leaves a worker idle can do better than half of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

PROMPT_TOKEN = 1.0
OUTPUT_TOKEN = 2.0


class VirtualCounters:
    """A counter per tenant, the ``most`` that were charged last. Pure.

    A tenant that is forgotten, or new, is where the one that was placed last was: it can claim nothing for the time it was not there.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._counters: OrderedDict[str, float] = OrderedDict()
        self._last = 0.0
        """The counter of whoever was placed last, before it was charged."""

    def __len__(self) -> int:
        return len(self._counters)

    def of(self, tenant: str) -> float:
        """Its counter."""
        return self._counters.get(tenant, self._last)

    def joins(self, tenant: str, waiting: Iterable[str]) -> None:
        """A tenant that has nobody waiting asks for something; ``waiting`` are the tenants that have. Lifts it to the least of them.

        Without that, an hour of silence would be an hour in which it goes before everybody.
        """
        least = min((self.of(other) for other in waiting if other != tenant), default=self._last)
        self._set(tenant, max(self.of(tenant), least))

    def placed(self, tenant: str, weight: float, prompt_tokens: int) -> None:
        """A request of it has been given to a worker."""
        self._last = self.of(tenant)
        self._add(tenant, PROMPT_TOKEN * prompt_tokens / weight)

    def produced(self, tenant: str, weight: float, output_tokens: int) -> None:
        """Tokens have been made for it."""
        self._add(tenant, OUTPUT_TOKEN * output_tokens / weight)

    def _add(self, tenant: str, service: float) -> None:
        self._set(tenant, self.of(tenant) + service)

    def _set(self, tenant: str, counter: float) -> None:
        self._counters[tenant] = counter
        self._counters.move_to_end(tenant)
        while len(self._counters) > self._most:
            self._counters.popitem(last=False)
