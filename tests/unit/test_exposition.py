"""The formats in which Prometheus is told, by what it says it can read."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from core.metrics.exposition import encoder


class OfAnEngine(Collector):
    def collect(self):
        family = CounterMetricFamily("vllm:prompt_tokens", "Tokens", labels=["worker"])
        family.add_metric(["prefill-1"], 3)
        return [family]


PROMETHEUS = {
    "2.42": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5",
    "3": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3",
    "underscores": "application/openmetrics-text;version=1.0.0;escaping=underscores",
    "text": "text/plain;version=1.0.0;escaping=underscores",
    "anything": "*/*",
    "nothing": "",
}


@pytest.mark.parametrize("accept", PROMETHEUS.values(), ids=PROMETHEUS.keys())
def test_names_are_told_as_they_are(accept):
    """vLLM's metrics keep their colon in every format: dashboards ask for them by it."""
    registry = CollectorRegistry()
    registry.register(OfAnEngine())
    encode, content_type = encoder(accept)
    lines = encode(registry).decode().splitlines()
    assert 'vllm:prompt_tokens_total{worker="prefill-1"} 3.0' in lines
    assert ("openmetrics" in content_type) == (lines[-1] == "# EOF") == ("openmetrics" in accept)
