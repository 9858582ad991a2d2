"""What Prometheus reads: the present numbers in its own format, and nothing of workers that are gone."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from core.ids import WorkerId
from core.metrics import ERROR_BUCKETS, PredictionNumbers, RouterCollector, RouterNumbers, WorkerNumbers
from core.worker import Role, WorkerLoad

P, D = (
    WorkerNumbers(WorkerId("p"), Role.PREFILL, WorkerLoad(1, 2, 30, 64, 5, 4), 3),
    WorkerNumbers(WorkerId("d"), Role.DECODE, WorkerLoad(6, 0, 7, 64), 6),
)
TTFT = PredictionNumbers("ttft", "prefill", [3, 2, 0, 0, 0, 0, 0, 0, 0, 1], 7.5, -0.25, 0.07)


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


def test_errors_of_predictions() -> None:
    """A histogram of their sizes, cumulative as Prometheus wants it, and two medians."""
    registry = CollectorRegistry()
    registry.register(RouterCollector(lambda: RouterNumbers(0, 0, 0, (), (TTFT,))))
    samples = [sample for family in text_string_to_metric_families(generate_latest(registry).decode()) for sample in family.samples]
    of_ttft = [sample for sample in samples if sample.labels.get("quantity") == "ttft" and sample.labels["role"] == "prefill"]
    buckets = {sample.labels["le"]: sample.value for sample in of_ttft if "le" in sample.labels}
    assert (buckets["0.05"], buckets["0.1"], buckets["5.0"], buckets["+Inf"], len(buckets)) == (3, 5, 5, 6, len(ERROR_BUCKETS) + 1)
    values = {sample.name.removeprefix("baton_prediction_"): sample.value for sample in of_ttft if "le" not in sample.labels}
    assert values == {"error_ratio_count": 6, "error_ratio_sum": 7.5, "bias_ratio": -0.25, "median_error_ratio": 0.07}


def test_every_metric_is_in_the_docs() -> None:
    """By its name, or by its last words behind the name before it in the same row."""
    registry = CollectorRegistry()
    registry.register(RouterCollector(lambda: RouterNumbers(0, 0, 0, (P,), (TTFT,))))
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        name = family.name
        assert f"`{name}" in page or f"`{name.removeprefix('baton_worker')}`" in page, name
