"""vLLM's metrics that dashboards and alerts ask for are those that workers with real engines pass on.

When this fails, vLLM has renamed some: mend ``deploy/dashboards`` and ``deploy/prometheus/alerts.yml``, then docs/metrics.md.
"""

from __future__ import annotations

from vllm.config import KVTransferConfig

from deploy.demo_model import ensure_demo_model
from engine.vllm_metrics import VllmMetrics
from router.front_half import front_half_config
from tests.support.promql import metrics
from tests.support.watching import RULES, TARGETS


def test_vllm_has_what_is_asked_of_it() -> None:
    """Every name that begins with ``vllm:``, down to the parts of histograms, with NIXL between the engines."""
    config = front_half_config(str(ensure_demo_model()), "demo", {"max_model_len": 1024, "dtype": "float32"})
    config.kv_transfer_config = KVTransferConfig(kv_connector="NixlConnector", kv_role="kv_both")
    told = {sample.name for family in VllmMetrics(config).families() for sample in family.samples}
    queries = [asks["expr"] for asks in (*TARGETS.values(), *RULES.values())]
    asked = {name for query in queries for name in metrics(query) if name.startswith("vllm:")}
    assert len(asked) > 10
    assert asked <= told
