"""The hard test: over how many GPUs prompts and answers are best spread, found by simulating every division.

Asked for is the most output per GPU at which means are no worse than those of the best deployment that was measured, whose layouts
are kept. Its time to the first token comes from the simulated queues, as that of all others here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from math import gcd

import msgspec

from benchmarks.published.deployment import Deployment, UnexpressedError, expressed
from benchmarks.published.load import Means
from benchmarks.published.pace import Pace
from benchmarks.published.rows import Row

Measure = Callable[[Deployment], Means]

_FINEST = 4
"""So many engines at least are divided: fewer have only few ratios."""
_STEP = 1.15
"""From one number of clients that is tried to the next."""
_SPAN = 4.0
"""How many times as many clients as were measured are tried, and how many times as few."""


class Division(msgspec.Struct, frozen=True):
    """One ratio at the most clients with which it keeps the promises."""

    prefill_gpus: int
    decode_gpus: int
    clients: int
    """0: it keeps them with none that was tried."""
    means: Means | None
    tokens_per_s_per_gpu: float


def divisions(row: Row, measure: Measure, pace: Pace = Pace()) -> list[Division]:  # noqa: B008 - frozen
    """Of as many engines as ``row`` has, or a multiple, for every ratio; raises UnexpressedError, also for engines of unequal size."""
    deployment = pace.of(expressed(row))
    engine_gpus = row.prefill.tp * row.prefill.groups
    if engine_gpus != row.decode.tp * row.decode.groups:
        raise UnexpressedError("engines for prompts and for answers have different numbers of GPUs")
    engines = row.prefill.workers + row.decode.workers
    engines *= -(-_FINEST // engines)
    found = []
    for prefills in range(1, engines):
        divided = msgspec.structs.replace(
            deployment,
            prefill_workers=prefills * row.prefill.groups,
            decode_workers=(engines - prefills) * row.decode.groups,
            clients=round(deployment.clients * engines * engine_gpus / row.gpus),
            gpus=engines * engine_gpus,
        )
        found.append(_best(divided, prefills * engine_gpus, Means(row.ttft_s, row.tpot_s), measure))
    return found


def ladder(deployment: Deployment) -> list[int]:
    """Numbers of clients around its own, each such that a small part of the deployment can be simulated for it."""
    unit = gcd(deployment.prefill_workers, deployment.decode_workers)
    found, clients = {unit}, deployment.clients / _SPAN
    while clients <= deployment.clients * _SPAN:
        found.add(max(1, round(clients / unit)) * unit)
        clients *= _STEP
    return sorted(found)


def _best(deployment: Deployment, prefill_gpus: int, promised: Means, measure: Measure) -> Division:
    """By halving: more clients never wait less, nor get their tokens sooner."""
    steps = ladder(deployment)
    kept: dict[int, Means] = {}

    def breaks(clients: int) -> bool:
        means = measure(msgspec.structs.replace(deployment, clients=clients))
        if means.ttft_s > promised.ttft_s or means.tpot_s > promised.tpot_s:
            return True
        kept[clients] = means
        return False

    most = bisect_left(steps, True, key=breaks) - 1
    decode_gpus = deployment.gpus - prefill_gpus
    if most < 0:
        return Division(prefill_gpus, decode_gpus, 0, None, 0.0)
    means = kept[steps[most]]
    seconds = means.ttft_s + means.tpot_s * (deployment.output_tokens - 1)
    return Division(prefill_gpus, decode_gpus, steps[most], means, steps[most] * deployment.output_tokens / seconds / deployment.gpus)
