"""vLLM's own metrics as workers pass them on: the names that docs/metrics.md promises, and what is left out.

When one of these fails, vLLM has moved: read its ``v1/metrics/loggers.py``, then mend ``engine/vllm_metrics.py`` and the page.
"""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY
from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreOutput, EngineCoreOutputs
from vllm.v1.metrics.stats import PrefillStats, PrefixCacheStats, SchedulerStats

from deploy.demo_model import ensure_demo_model
from engine import vllm_metrics
from engine.vllm_metrics import VllmMetrics
from router.front_half import front_half_config

PROMISED = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
    "vllm:kv_cache_usage_perc",
    "vllm:cache_config_info",
    "vllm:prompt_tokens",
    "vllm:prompt_tokens_by_source",
    "vllm:prompt_tokens_cached",
    "vllm:generation_tokens",
    "vllm:iteration_tokens_total",
    "vllm:prefix_cache_queries",
    "vllm:prefix_cache_hits",
    "vllm:external_prefix_cache_queries",
    "vllm:external_prefix_cache_hits",
    "vllm:num_preemptions",
}


@pytest.fixture
def metrics() -> VllmMetrics:
    return VllmMetrics(front_half_config(str(ensure_demo_model()), "demo", {"max_model_len": 1024, "dtype": "float32"}))


def step() -> EngineCoreOutputs:
    """One of two requests, of which one has just begun and one was put back."""
    stats = PrefillStats()
    stats.set(num_prompt_tokens=40, num_local_cached_tokens=16, num_external_cached_tokens=8)
    preempted = [EngineCoreEvent.new_event(EngineCoreEventType.PREEMPTED, 1.0)]
    outputs = [EngineCoreOutput("a", [1], prefill_stats=stats), EngineCoreOutput("b", [2, 3], events=preempted)]
    cache = PrefixCacheStats(requests=1, queries=40, hits=16)
    scheduler = SchedulerStats(num_running_reqs=2, num_waiting_reqs=3, kv_cache_usage=0.25, prefix_cache_stats=cache)
    return EngineCoreOutputs(outputs=outputs, scheduler_stats=scheduler)


def values(metrics: VllmMetrics) -> dict[str, float]:
    """Of those that have no labels but the engine's own."""
    samples = [sample for family in metrics.families() for sample in family.samples]
    return {sample.name: sample.value for sample in samples if sample.labels.keys() == {"model_name", "engine"}}


def test_what_is_promised_is_told_and_nothing_that_is_not_fed(metrics: VllmMetrics) -> None:
    """By vLLM's names, and of a model by the name that clients know."""
    metrics.observe(step())
    families = {family.name: family for family in metrics.families()}
    assert set(families) >= PROMISED
    assert not [name for name in families if name.startswith(("vllm:request_", "vllm:time_to_first", "vllm:estimated_"))]
    names = {sample.labels["model_name"] for family in families.values() for sample in family.samples if "model_name" in sample.labels}
    assert names == {"demo"}


def test_what_is_left_out_exists(metrics: VllmMetrics) -> None:
    """But where vLLM makes it only on demand: a name that is not there any more is a sign that another one is, and is not fed."""
    made = [family.name for collector in metrics._collectors for family in collector.collect()]
    on_demand = {"vllm:corrupted_requests", "vllm:lora_requests_info", "vllm:watermark_requests"}
    assert [start for start in vllm_metrics._UNFED if not any(name.startswith(start) for name in made)] == sorted(on_demand)


def test_steps_add_up(metrics: VllmMetrics) -> None:
    """Tokens, hits and preemptions of all steps; queues and cache as the last one left them."""
    for _ in range(2):
        metrics.observe(step())
    told = values(metrics)
    assert (told["vllm:num_requests_running"], told["vllm:num_requests_waiting"], told["vllm:kv_cache_usage_perc"]) == (2, 3, 0.25)
    assert (told["vllm:prompt_tokens_total"], told["vllm:generation_tokens_total"], told["vllm:num_preemptions_total"]) == (80, 6, 2)
    assert (told["vllm:prefix_cache_queries_total"], told["vllm:prefix_cache_hits_total"]) == (80, 32)


def test_engines_of_one_process_do_not_know_of_each_other(metrics: VllmMetrics) -> None:
    """And nothing of theirs is in the process's own registry, where it would be told twice."""
    other = VllmMetrics(front_half_config(str(ensure_demo_model()), "other", {"max_model_len": 1024, "dtype": "float32"}))
    other.observe(step())
    assert (values(metrics)["vllm:generation_tokens_total"], values(other)["vllm:generation_tokens_total"]) == (0, 3)
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("vllm:")]
