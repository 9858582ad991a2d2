"""vLLM's own Prometheus metrics of one engine, filled by vLLM's own code where the engine core's statistics arrive: in the worker.

In a server of vLLM's its front half does this. Baton's is in the routers, of which there are many for one engine, and none has all of its
outputs. Left out is what only the front half knows, of whole requests: Baton's own metrics have that, over both workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY
from vllm.v1.engine import EngineCoreEventType
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.prometheus import unregister_vllm_metrics
from vllm.v1.metrics.stats import IterationStats

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from vllm.config import VllmConfig
    from vllm.v1.engine import EngineCoreOutputs

_UNFED = (
    "vllm:admission_rejections",
    "vllm:corrupted_requests",
    "vllm:e2e_request_latency_seconds",
    "vllm:engine_sleep_state",
    "vllm:inter_token_latency_seconds",
    "vllm:lora_requests_info",
    "vllm:mm_cache_",
    "vllm:request_",
    "vllm:time_to_first_token_seconds",
    "vllm:watermark_requests",
)
"""Beginnings of the names of what the engine core's statistics say nothing about."""


class VllmMetrics:
    """Of one engine life. Two in one process do not know of each other: vLLM's registry has room for one only."""

    def __init__(self, config: VllmConfig) -> None:
        self._unfed = _UNFED if config.observability_config.enable_mfu_metrics else (*_UNFED, "vllm:estimated_")
        self._logger = PrometheusStatLogger(config, [0])
        self._logger.log_engine_initialized()
        self._collectors = _vllms_own()
        unregister_vllm_metrics()

    def observe(self, outputs: EngineCoreOutputs) -> None:
        """A step's outputs, before anything is taken off them."""
        step = IterationStats()
        for output in outputs.outputs:
            step.num_generation_tokens += len(output.new_token_ids)
            if output.prefill_stats is not None:
                step.prompt_token_stats.update_from_output(output.prefill_stats)
            if output.events:
                step.num_preempted_reqs += sum(event.type is EngineCoreEventType.PREEMPTED for event in output.events)
        self._logger.record(outputs.scheduler_stats, step)

    def families(self) -> Iterable[Metric]:
        """What there is to tell now."""
        for collector in self._collectors:
            for family in collector.collect():
                if not family.name.startswith(self._unfed):
                    yield family


def _vllms_own() -> Sequence[Any]:
    """What vLLM has put into the process's registry, found as vLLM finds it when it takes it out."""
    return [collector for collector in REGISTRY._collector_to_names if getattr(collector, "_name", "").startswith("vllm:")]
