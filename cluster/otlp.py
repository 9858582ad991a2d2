"""OpenTelemetry's SDK and OTLP exporters, behind ``SpanExport``: imported only where there is a collector to send to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cluster.span_export import SpanExport
from core.trace import Span, SpanKind, TraceContext
from core.tracing_config import TracingConfig

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # it says of every batch what ``SpanExport`` says now and then

_TRACES = "OTEL_EXPORTER_OTLP_TRACES_"
_ALL = "OTEL_EXPORTER_OTLP_"


def wants_spans(config: TracingConfig, environ: Mapping[str, str]) -> bool:
    """Whether there is a collector, and nobody has turned the SDK off."""
    endpoint = config.otlp_endpoint or environ.get(f"{_TRACES}ENDPOINT") or environ.get(f"{_ALL}ENDPOINT")
    return bool(endpoint) and environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true"


def otlp_export(config: TracingConfig, service: str, instance: str, environ: Mapping[str, str]) -> SpanExport | None:
    """Sends to the collector that the configuration names, or else ``environ``; None where neither does.

    ``environ`` is this process's: the SDK reads headers, certificates, timeout, compression and resource attributes from there itself.
    """
    if not wants_spans(config, environ):
        return None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExportResult

    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    resource = Resource.create({**named, "service.namespace": "baton", "service.instance.id": instance})
    exporter = _exporter(config, environ)

    def send(spans: Sequence[Span]) -> bool:
        return exporter.export([_readable(span, resource) for span in spans]) is SpanExportResult.SUCCESS

    return SpanExport(send, stop_sending=exporter.shutdown)


def _exporter(config: TracingConfig, environ: Mapping[str, str]) -> SpanExporter:
    protocol = config.protocol or environ.get(f"{_TRACES}PROTOCOL") or environ.get(f"{_ALL}PROTOCOL") or "grpc"
    endpoint = config.otlp_endpoint
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

        return OverGrpc(endpoint=endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

    if endpoint is not None and urlsplit(endpoint).path in {"", "/"}:
        endpoint = endpoint.rstrip("/") + "/v1/traces"
    return OverHttp(endpoint=endpoint)


def _readable(span: Span, resource: Resource) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanKind as OtelKind
    from opentelemetry.trace import Status, StatusCode

    kinds = {SpanKind.INTERNAL: OtelKind.INTERNAL, SpanKind.CLIENT: OtelKind.CLIENT, SpanKind.SERVER: OtelKind.SERVER}
    return ReadableSpan(
        name=span.name,
        context=_place(span.context, span.context.span_id),
        parent=_place(span.context, span.parent_id) if span.parent_id else None,
        resource=resource,
        attributes=span.attributes,
        kind=kinds[span.kind],
        status=Status() if span.error is None else Status(StatusCode.ERROR, span.error),
        start_time=span.begin_ns,
        end_time=max(span.begin_ns, span.end_ns),
    )


def _place(context: TraceContext, span_id: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    state = TraceState.from_header([context.state] if context.state else [])
    return SpanContext(int(context.trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(1), trace_state=state)
