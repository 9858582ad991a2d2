"""Where spans go by which protocol, by configuration and environment; and that a collector can read them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from cluster.otlp import otlp_export, wants_spans
from core.config import BatonConfig
from core.trace import Span, SpanKind, TraceContext
from core.tracing_config import TracingConfig
from tests.support.otlp_receiver import Collector, over_grpc, over_http

HERE = "http://127.0.0.1:4317"
SPAN = Span(
    "x", TraceContext("a" * 32, "b" * 16, True, "v=1"), "c" * 16, 5, 9, {"n": 1, "f": 0.5, "s": "t", "b": True}, SpanKind.CLIENT, "no"
)
WANTED: dict[str, tuple[TracingConfig, dict[str, str], bool]] = {
    "nothing said": (TracingConfig(), {}, False),
    "configured": (TracingConfig(otlp_endpoint=HERE), {}, True),
    "in the environment": (TracingConfig(), {"OTEL_EXPORTER_OTLP_ENDPOINT": HERE}, True),
    "there for traces alone": (TracingConfig(), {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": HERE}, True),
    "there for metrics alone": (TracingConfig(), {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": HERE}, False),
    "turned off there": (TracingConfig(otlp_endpoint=HERE), {"OTEL_SDK_DISABLED": "TRUE"}, False),
    "empty there": (TracingConfig(), {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
}


@pytest.mark.parametrize("case", WANTED)
def test_whether_there_is_anybody_to_tell(case: str) -> None:
    """Without an endpoint there is nothing: no thread, and no import."""
    config, environ, wanted = WANTED[case]
    assert wants_spans(config, environ) is wanted
    if not wanted:
        assert otlp_export(config, "s", "i", environ) is None


@pytest.fixture(name="collector", params=["grpc", "http/protobuf"])
def _collector(request: pytest.FixtureRequest) -> Iterator[tuple[str, Collector]]:
    with (over_grpc if request.param == "grpc" else over_http)() as collector:
        yield request.param, collector


def sent(config: TracingConfig, environ: dict[str, str]) -> None:
    export = otlp_export(config, "baton-router", "router-7", environ)
    assert export is not None
    export.put([SPAN])
    export.close(10.0)


@pytest.mark.parametrize("configured", [True, False])
def test_a_collector_reads_what_is_sent(collector: tuple[str, Collector], configured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By either protocol, from either place; with headers and resource attributes of the environment."""
    protocol, receiver = collector
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "x-team=llm", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test"}
    if not configured:
        environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    config = TracingConfig.model_validate({"otlp_endpoint": receiver.endpoint, "protocol": protocol}) if configured else TracingConfig()
    sent(config, environ)
    [span] = receiver.spans
    assert (span.name, span.trace_id, span.span_id, span.parent_id) == ("x", "a" * 32, "b" * 16, "c" * 16)
    assert (span.begin_ns, span.end_ns, span.kind, span.error, span.state) == (5, 9, "client", "no", "v=1")
    assert span.attributes == {"n": 1, "f": 0.5, "s": "t", "b": True}
    said = {name: receiver.resources[0][name] for name in ("service.name", "service.instance.id", "deployment.environment")}
    assert said == {"service.name": "baton-router", "service.instance.id": "router-7", "deployment.environment": "test"}
    assert receiver.headers[0]["x-team"] == "llm"


BROKEN = {"sample": 1.5, "otlp_endpoint": "collector:4317", "protocol": "http/json", "flush_timeout_s": -1, "endpoint": HERE}


@pytest.mark.parametrize("key", BROKEN)
def test_what_the_configuration_does_not_take(key: str) -> None:
    """A share beyond 1, an address without its scheme, a protocol nobody sends, a key that is none."""
    with pytest.raises(ValidationError):
        BatonConfig.model_validate({"model": "demo", "tracing": {key: BROKEN[key]}})
