"""The section ``tracing`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.section import Section


class TracingConfig(Section):
    """Where spans of requests go, by OTLP; docs/tracing.md. With no endpoint here and none in ``OTEL_EXPORTER_OTLP_ENDPOINT`` or
    ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` of a process, none are made there."""

    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^/\s]+\S*$")] | None = None
    """The collector's URL: ``http://host:4317`` for ``grpc``, ``http://host:4318`` for ``http/protobuf``; ``https`` for TLS. It wins
    over the environment's."""
    protocol: Literal["grpc", "http/protobuf"] | None = None
    """How it is spoken to. Unset: what ``OTEL_EXPORTER_OTLP_TRACES_PROTOCOL`` or ``OTEL_EXPORTER_OTLP_PROTOCOL`` says; else ``grpc``."""
    sample: float = Field(default=1.0, ge=0.0, le=1.0)
    """The share of requests that are told of, among those whose caller sends no ``traceparent``. Who sends one decides by it."""
    flush_timeout_s: float = Field(default=2.0, ge=0.0)
    """How long a process that ends may go on sending what it has. Spans that are left then are lost."""
