"""Those of vLLM's metrics that a simulated engine can tell, under vLLM's names: what shows engines shows simulated ones, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from engine.base import EngineStats
from engine.sim_request import Mark
from engine.sim_step import StepResult

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_LABELS = ("model_name", "engine")
_OF_THIS = ("simulated", "0")


class SimMetrics:
    """Of one engine life."""

    def __init__(self) -> None:
        self._prompt_tokens = self._cached_tokens = self._pulled_tokens = self._generation_tokens = self._preemptions = 0

    def observe(self, result: StepResult) -> None:
        """A step has ended."""
        for emitted in result.emitted:
            self._generation_tokens += emitted.token is not None
            self._preemptions += sum(mark is Mark.PREEMPTED for mark, _ in emitted.marks)
            if (counts := emitted.counts) is not None:
                self._prompt_tokens += counts.prompt
                self._cached_tokens += counts.local
                self._pulled_tokens += counts.external

    def families(self, stats: EngineStats) -> Sequence[Metric]:
        """With what it has now."""
        used = 1.0 - stats.free_blocks / stats.num_blocks if stats.num_blocks else 0.0
        levels = {
            "vllm:num_requests_running": (stats.running, "Number of requests in model execution batches."),
            "vllm:num_requests_waiting": (stats.waiting, "Number of requests waiting to be processed."),
            "vllm:kv_cache_usage_perc": (used, "KV-cache usage. 1 means 100 percent usage."),
        }
        sums = {
            "vllm:prompt_tokens": (self._prompt_tokens, "Number of prefill tokens processed."),
            "vllm:prefix_cache_queries": (self._prompt_tokens, "Prefix cache queries, in terms of number of queried tokens."),
            "vllm:prefix_cache_hits": (self._cached_tokens, "Prefix cache hits, in terms of number of cached tokens."),
            "vllm:external_prefix_cache_hits": (self._pulled_tokens, "Prompt tokens whose KV came from another engine."),
            "vllm:generation_tokens": (self._generation_tokens, "Number of generation tokens processed."),
            "vllm:num_preemptions": (self._preemptions, "Cumulative number of preemption from the engine."),
        }
        families: list[Metric] = []
        for kind, told in ((GaugeMetricFamily, levels), (CounterMetricFamily, sums)):
            for name, (value, words) in told.items():
                family = kind(name, words, labels=_LABELS)
                family.add_metric(_OF_THIS, value)
                families.append(family)
        return families
