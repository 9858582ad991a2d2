"""The router as a Serve deployment: composes the parts, then is nothing but an ASGI app to Serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import prometheus_client
import ray
from prometheus_client import CollectorRegistry
from ray import serve

from cluster.metrics_listener import MetricsListener
from cluster.otlp import otlp_export
from core import heap
from core.config import BatonConfig
from core.ids import RouterId
from core.metrics.exposition import ByModel, ReadingCollector

if TYPE_CHECKING:
    from cluster.span_export import SpanExport
    from router.stack import Stack


@serve.ingress()
class Router:
    """One replica. For each model, one after the other: what it is served by, its directory or hub name, and its controller's handle."""

    # Serve ends replicas in the middle of ``__init__``, too, at Ctrl-C while libraries are loaded: there is nothing to close then.
    _stacks: Sequence[Stack] = ()
    _listeners: Sequence[MetricsListener] = ()
    _spans: SpanExport | None = None
    _flush_timeout_s = 0.0

    async def __init__(self, configs: list[dict[str, Any]], models: list[str], *controllers: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        with heap.loading():
            await self._start(configs, models, controllers)

    async def _start(self, configs: list[dict[str, Any]], models: list[str], controllers: Sequence[Any]) -> None:
        # vLLM only from here on: the class is imported where no engine is installed, too (the head node's Serve controller).
        from router.controller_calls import ControllerCalls
        from router.entrance import Entrance
        from router.keys import KeyRing
        from router.models import Models, ServedModel
        from router.stack import Stack

        each = [BatonConfig.model_validate(config) for config in configs]
        shared = each[0]
        keys = KeyRing(shared.router.api_keys) if shared.router.api_keys.wanted else None  # first: without them, nothing starts
        self.name = RouterId(f"router-{serve.get_replica_context().replica_tag}")
        self._spans = otlp_export(shared.tracing, "baton-router", self.name, os.environ)
        self._flush_timeout_s = shared.tracing.flush_timeout_s
        parts = enumerate(zip(each, models, strict=True))
        self._stacks = [Stack(settings, model, self.name, self._spans, counts_spans=place == 0) for place, (settings, model) in parts]
        # Serve gives each request to some replica: `/metrics` through it is of whichever that is. So each also listens by itself.
        self._listeners = _listeners(self._stacks, shared.host or ray.util.get_node_ip_address())
        names = [stack.settings.served_name for stack in self._stacks]
        served: dict[str, ServedModel] = {}
        for name, stack, listener, handle in zip(names, self._stacks, self._listeners, controllers, strict=True):
            app = await stack.connect(ControllerCalls(handle, self.name, await listener.open()), keys, names if len(names) > 1 else ())
            served[name] = ServedModel(app, stack.serves, stack.refused)
        entrance = Entrance(shared.router.max_body_bytes, keys)
        self._app = app if len(served) == 1 else Models(served, entrance, self.name)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def __del__(self) -> None:
        for listener in self._listeners:
            listener.close()
        for stack in self._stacks:
            await stack.close()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close, self._flush_timeout_s)


def _listeners(stacks: list[Stack], host: str) -> list[MetricsListener]:
    """One for each model, to be found by its controller alone. Of several, each tells of its own model and of the process; ``/metrics``
    through Serve tells of all."""
    if len(stacks) == 1:
        prometheus_client.REGISTRY.register(ReadingCollector(stacks[0].readings))
        return [MetricsListener(prometheus_client.REGISTRY, host, stacks[0].colleagues.answer)]
    prometheus_client.REGISTRY.register(ByModel({stack.settings.served_name: stack.readings for stack in stacks}))
    listeners: list[MetricsListener] = []
    for stack in stacks:
        own = CollectorRegistry()
        for collector in (prometheus_client.PROCESS_COLLECTOR, prometheus_client.GC_COLLECTOR, ReadingCollector(stack.readings)):
            own.register(collector)
        listeners.append(MetricsListener(own, host, stack.colleagues.answer))
    return listeners
