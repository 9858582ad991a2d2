"""A fixed number of clients, each of which asks again as soon as it has its answer."""

from __future__ import annotations

from collections.abc import Sequence

from simulation.cluster import Cluster
from simulation.record import Record
from simulation.traces import TraceRequest


def serve(cluster: Cluster, requests: Sequence[TraceRequest], clients: int) -> list[Record]:
    """All of them, in turn: the first ``clients`` at once, the others one for each that ends. Records in order of asking.

    Arrivals in the requests are not looked at. ``cluster`` has served nothing before. Raises ValueError for no clients.
    """
    if clients < 1:
        raise ValueError("a closed loop needs at least one client")
    records = cluster.records
    routers = cluster.routers

    def ask() -> None:
        number = len(records)
        if number == len(requests):
            return
        record = routers[number % len(routers)].submit(f"r{number}", requests[number])
        records.append(record)
        if record.ended_s is not None:
            ask_soon()  # it was refused

    def ask_soon() -> None:
        cluster.clock.later(0.0, ask)  # not at once: the router is still telling of the one that ended

    for router in routers:
        router.ended = ask_soon
    for _ in range(min(clients, len(requests))):
        ask_soon()
    cluster.clock.run(lambda: len(records) == len(requests) and not any(router.open_requests for router in routers))
    return records
