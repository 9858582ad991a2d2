"""The load of InferenceX's benchmark client, and what it reports.

As many clients as the row says, all of them at once, each asking again when it has its answer: ten requests for each client. Lengths are
drawn evenly from 0.8 to 1.0 of those in the row's name (``--random-range-ratio 0.8``). Reported are means over all requests, the first
of every client included, whose time to the first token is mostly the time behind those that came at the same moment.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import gcd
from statistics import fmean

import msgspec

from benchmarks.published.deployment import Deployment, spec
from simulation.closed_loop import serve
from simulation.cluster import Cluster
from simulation.record import Record
from simulation.traces import TraceRequest

_ROUNDS = 10
"""Of the measured load."""
_SHORTEST = 0.8
_ROUNDS_BY_CLIENTS = ((64, 10), (1024, 3))
"""Up to so many clients, so many rounds are simulated; of more clients two. The first then weighs as one in ten, and the others stand
for those that were left out."""
_ENOUGH_CLIENTS = 128
"""Of a deployment of many like workers, as small a part is simulated as has so many clients."""


class Means(msgspec.Struct, frozen=True):
    """What the client reports."""

    ttft_s: float
    tpot_s: float


def simulate(deployment: Deployment, seed: int = 1) -> Means:
    """Raises RuntimeError when a request was not served, which is a mistake of ours."""
    deployment = part(deployment)
    clients = deployment.clients
    rounds = next((rounds for most, rounds in _ROUNDS_BY_CLIENTS if clients <= most), 2)
    cluster = Cluster(spec(deployment), seed)
    records = serve(cluster, requests(deployment, rounds, random.Random(seed)), clients)
    if failed := [record for record in records if not record.is_complete]:
        raise RuntimeError(f"{len(failed)} of {len(records)} requests were not served: {failed[0].failure}")
    return means(records, clients)


def part(deployment: Deployment) -> Deployment:
    """As many workers of each role for as many clients each, all divided by the same number. What a step takes stays what it is in
    the whole deployment, and so does its network; chance evens out among fewer workers a little less."""
    common = gcd(deployment.prefill_workers, deployment.decode_workers, deployment.clients)
    by = max(n for n in range(1, common + 1) if common % n == 0 and (n == 1 or deployment.clients // n >= _ENOUGH_CLIENTS))
    return msgspec.structs.replace(
        deployment,
        prefill_workers=deployment.prefill_workers // by,
        decode_workers=deployment.decode_workers // by,
        clients=deployment.clients // by,
    )


def requests(deployment: Deployment, rounds: int, rng: random.Random) -> list[TraceRequest]:
    """``rounds`` for each client."""

    def drawn(tokens: int) -> int:
        return rng.randint(int(tokens * _SHORTEST), tokens)

    total = deployment.clients * rounds
    return [TraceRequest(0.0, drawn(deployment.input_tokens), drawn(deployment.output_tokens)) for _ in range(total)]


def means(records: Sequence[Record], clients: int) -> Means:
    """As over ten rounds, the first of which are the first ``clients`` records."""
    first, later = records[:clients], records[clients:]
    share = 1.0 / _ROUNDS
    return Means(
        share * fmean(_ttft_s(record) for record in first) + (1.0 - share) * fmean(_ttft_s(record) for record in later),
        share * fmean(_tpot_s(record) for record in first) + (1.0 - share) * fmean(_tpot_s(record) for record in later),
    )


def _ttft_s(record: Record) -> float:
    assert record.ttft_s is not None
    return record.ttft_s


def _tpot_s(record: Record) -> float:
    assert record.tpot_s is not None
    return record.tpot_s
