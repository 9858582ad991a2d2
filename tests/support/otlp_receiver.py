"""A collector: takes spans by OTLP on loopback, over gRPC or HTTP, and keeps them as they were sent."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as wire
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan


@dataclass(frozen=True)
class Received:
    """One span, and who sent it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    begin_ns: int
    end_ns: int
    attributes: dict[str, Any]
    service: str
    state: str
    kind: str
    error: str

    @property
    def took_ns(self) -> int:
        return self.end_ns - self.begin_ns


@dataclass
class Collector:
    """Everything that was received so far."""

    endpoint: str = ""
    spans: list[Received] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def take(self, request: wire.ExportTraceServiceRequest) -> wire.ExportTraceServiceResponse:
        for sent in request.resource_spans:
            resource = _values(sent.resource.attributes)
            self.resources.append(resource)
            self.spans += [_received(span, resource) for scope in sent.scope_spans for span in scope.spans]
        return wire.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Received]:
        """Spans of this name, by their beginning."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.begin_ns)

    def below(self, parent: Received) -> list[Received]:
        """Its children, by their beginning."""
        return sorted((span for span in self.spans if span.parent_id == parent.span_id), key=lambda span: span.begin_ns)


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def _received(span: WireSpan, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        begin_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        service=str(resource.get("service.name", "")),
        state=span.trace_state,
        kind=WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        error=span.status.message,
    )


class _Service(service.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - as the protocol has it
        self._collector.headers.append(dict(context.invocation_metadata()))
        return self._collector.take(request)


@contextlib.contextmanager
def over_grpc() -> Iterator[Collector]:
    """Open until left."""
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    service.add_TraceServiceServicer_to_server(_Service(collector), server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait(10.0)


@contextlib.contextmanager
def over_http() -> Iterator[Collector]:
    """Open until left; at ``/v1/traces``, as the standard has it."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.headers.append(dict(self.headers))
            answer = collector.take(wire.ExportTraceServiceRequest.FromString(body)).SerializeToString()
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a test's output is its own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10.0)
