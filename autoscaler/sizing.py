"""How many workers a demand needs, and what becomes of both pools when that is more than there can be."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from autoscaler.capacity import DecodeCapacity, PrefillCapacity, Shape
from core.worker import Role

_Z = 1.28
"""Nine times of ten a normal variable is not further above its mean, in its deviations."""
_STEPS = 24
"""Of a bisection: to a ten-millionth."""


class Load(msgspec.Struct, frozen=True):
    """What both pools have to do."""

    shape: Shape
    requests_per_s: float
    """Times prompts' share and answers' share of them: ``Need`` scales both."""
    output_tokens_per_s: float
    """Not always the rate times the mean answer: forecasts are made of each."""
    backlog_tokens: float = 0.0
    """Prompt tokens to compute that wait already."""
    backlog_s: float = 1.0
    """In how long they are to be gone."""
    in_turn: bool = False
    """Whether it is enough that those who wait are served by then, before whoever comes meanwhile, who then waits no longer than they did.
    Else they are to be served beside all that comes."""
    running: float = 0.0
    """Requests that decode now, or wait to: there are at least so many."""


class Need(msgspec.Struct, frozen=True):
    """How many workers of each role a share of a load needs. Never fewer for a larger share."""

    load: Load
    prefill: PrefillCapacity | None
    decode: DecodeCapacity | None
    """None: nobody has measured it. One worker is needed, to find out."""
    ttft_s: float
    utilisation: float
    burstiness: float
    mixed: bool = False
    """Whether decode workers compute prompts, too, in the time they have left."""

    def counts(self, share: float = 1.0) -> dict[Role, int]:
        """Workers of both roles. Where they mix, all work is rounded up to whole workers once: what is over in decode is prefill's."""
        apart = {role: self.of(role, share) for role in Role}
        if not self.mixed or self.prefill is None or self.decode is None or not all(apart.values()):
            return apart
        together = self._servers(self._busy(share) + self._at_once(share) / self.decode.batch)
        prefill = max(1, min(apart[Role.PREFILL], together - apart[Role.DECODE]))
        return {Role.PREFILL: prefill, Role.DECODE: apart[Role.DECODE]}

    def of(self, role: Role, share: float = 1.0) -> int:
        """Workers of a role; 0 only where there is nothing to do at all."""
        load = self.load
        if share <= 0 or (load.requests_per_s <= 0 and load.output_tokens_per_s <= 0 and load.backlog_tokens <= 0 and load.running <= 0):
            return 0
        return max(1, self._prefill(share) if role is Role.PREFILL else self._decode(share))

    def _prefill(self, share: float) -> int:
        """So many that nine of ten requests wait no longer than the objective leaves them."""
        if self.prefill is None:
            return 1
        return self._servers(self._busy(share))

    def _busy(self, share: float) -> float:
        """Workers that are never idle and compute all prompts."""
        if self.prefill is None:
            return 0.0
        load, each_s = self.load, self.prefill.busy_s
        comes = load.requests_per_s * each_s
        waits = load.backlog_tokens / max(1.0, load.shape.uncached_tokens) * each_s / load.backlog_s
        return share * (max(comes, waits) if load.in_turn else comes + waits)

    def _servers(self, busy: float) -> int:
        """So many that nine of ten prompts do not wait too long, where there is so much work."""
        count = max(1, math.ceil(busy / self.utilisation - 1e-9))
        spare_s = 0.0 if self.prefill is None else self.ttft_s - self.prefill.alone_s
        if self.prefill is None or spare_s <= 0:
            return count  # more workers do not make one prompt faster
        while _wait_s(count, busy, self.prefill.busy_s, self.burstiness) > spare_s:
            count += 1
        return count

    def _decode(self, share: float) -> int:
        """So many that nine times of ten all requests have a place in a batch."""
        if self.decode is None:
            return 1
        at_once = self._at_once(share)
        return math.ceil((at_once + _Z * math.sqrt(at_once)) / self.decode.batch - 1e-9)

    def _at_once(self, share: float) -> float:
        """Requests that decode at one time."""
        step_s = 0.0 if self.decode is None else self.decode.step_s
        return share * max(self.load.output_tokens_per_s * step_s, self.load.running)

    def share(self, have: Mapping[Role, int]) -> float:
        """The part of the load that both pools keep up with."""
        return min(self.pool_share(role, count) for role, count in have.items())

    def pool_share(self, role: Role, count: int) -> float:
        """The part of the load that so many workers of a role keep up with."""
        if self.of(role) <= count:
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.of(role, middle) <= count else (low, middle)
        return low


class Pool(msgspec.Struct, frozen=True):
    """Bounds of a pool, and the price of a worker."""

    least: int
    most: int
    cost: float = 1.0

    def clamp(self, count: int) -> int:
        """Within the bounds."""
        return max(self.least, min(count, self.most))


def fit(need: Need, pools: Mapping[Role, Pool], budget: float) -> dict[Role, int]:
    """Workers of each role for all of the load; for an equal part of it in both pools, the largest, where the budget is short of that.

    What is left of the budget then goes to whichever is further behind. Minima are kept even beyond the budget.
    """

    def counts(share: float) -> dict[Role, int]:
        needed = need.counts(share)
        return {role: pool.clamp(needed[role]) for role, pool in pools.items()}

    def cost(workers: Mapping[Role, int]) -> float:
        return sum(pools[role].cost * count for role, count in workers.items())

    most = counts(1.0)
    if cost(most) <= budget + 1e-9:
        return most
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(counts(middle)) <= budget + 1e-9 else (low, middle)
    chosen = counts(low)
    while True:
        behind = [role for role, pool in pools.items() if chosen[role] < most[role] and cost(chosen) + pool.cost <= budget + 1e-9]
        if not behind:
            return chosen
        chosen[min(behind, key=lambda role: need.pool_share(role, chosen[role]))] += 1


def _wait_s(servers: int, busy: float, each_s: float, burstiness: float) -> float:
    """What nine of ten wait at most for one of several equal servers (Sakasegawa's approximation of a G/G/c queue's wait, taken as
    exponential for those who wait at all)."""
    idle = servers - busy
    if idle <= 1e-9:
        return math.inf
    waits = (busy / servers) ** (math.sqrt(2 * (servers + 1)) - 1)
    return max(0.0, math.log(10 * waits)) * burstiness * each_s / idle if waits > 0 else 0.0
