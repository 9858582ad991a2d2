"""What Prometheus reads: the present numbers in its own format, and nothing of workers that are gone."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from core.ids import WorkerId
from core.metrics import RouterCollector, RouterNumbers, WorkerNumbers
from core.worker import Role, WorkerLoad

P, D = (
    WorkerNumbers(WorkerId("p"), Role.PREFILL, WorkerLoad(1, 2, 30, 64, 5, 4), 3),
    WorkerNumbers(WorkerId("d"), Role.DECODE, WorkerLoad(6, 0, 7, 64), 6),
)


def read(registry: CollectorRegistry) -> dict[tuple[str, str | None], float]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(sample.name, sample.labels.get("worker")): sample.value for family in families for sample in family.samples}


def test_numbers_are_those_of_the_moment() -> None:
    """Each scrape asks anew; a worker that left takes its labels with it."""
    now = [RouterNumbers(9, 2, 400, (P, D)), RouterNumbers(0, 0, 0, (D,))]
    registry = CollectorRegistry()
    registry.register(RouterCollector(lambda: now[0]))
    values = read(registry)
    assert (values["baton_router_requests", None], values["baton_router_waiting_tokens", None]) == (9, 400)
    assert (values["baton_worker_leased_blocks", "p"], values["baton_worker_stranded_blocks", "p"]) == (5, 4)
    assert (values["baton_worker_running_requests", "d"], values["baton_worker_outstanding_legs", "d"]) == (6, 6)
    now.pop(0)
    values = read(registry)
    assert values["baton_router_requests", None] == 0
    assert {worker for _, worker in values} == {None, "d"}


def test_every_metric_is_in_the_docs() -> None:
    """By its name, or by its last words behind the name before it in the same row."""
    registry = CollectorRegistry()
    registry.register(RouterCollector(lambda: RouterNumbers(0, 0, 0, (P,))))
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for name, _ in read(registry):
        assert f"`{name}" in page or f"`{name.removeprefix('baton_worker')}`" in page, name
