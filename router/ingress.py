"""The router as a Serve deployment: composes the parts, then is nothing but an ASGI app to Serve."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from typing import Any

import prometheus_client
import ray
from ray import serve

from cluster.membership import Membership
from cluster.metrics_listener import MetricsListener
from cluster.otlp import otlp_export
from core.config import BatonConfig
from core.ids import RouterId
from core.metrics.exposition import ReadingCollector
from core.pace import Pace
from core.worker import Role
from engine.adapters import AdapterCatalogue
from router.balancer.registry import make_balancer
from router.limits import Limits
from router.retry import Retry

log = logging.getLogger(__name__)


@serve.ingress()
class Router:
    """One replica. ``controller`` is the handle of the application's controller; ``model`` a directory or hub name."""

    async def __init__(self, config: dict[str, Any], model: str, controller: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        # vLLM only from here on: the class is imported where no engine is installed, too (the head node's Serve controller).
        from router.cluster_client import ClusterClient
        from router.dispatcher import Dispatcher
        from router.foresight import Foresight
        from router.front_half import RouterLLM, build_server, connect_server, front_half_config
        from router.http_trace import Traced
        from router.keys import KeyRing
        from router.members import Members
        from router.objectives import Promises
        from router.readings import readings
        from router.routes import install
        from router.tally import RouterTally

        settings = BatonConfig.model_validate(config)
        keys = KeyRing(settings.router.api_keys) if settings.router.api_keys.wanted else None  # first: without them, nothing starts
        self.name = RouterId(f"router-{serve.get_replica_context().replica_tag}")
        client = ClusterClient()
        foresight = Foresight.of_config(settings)
        balancer = make_balancer(settings.router.policy, random.Random(), foresight.predictor)
        retry = Retry(settings.router.retry.max_losses, settings.router.retry.backoff_s, random.random)
        limits = Limits.of_config(settings)
        pace = Pace(settings.engine.slowdown)  # what it predicts and promises is in the engines' seconds
        tally = RouterTally.of_config(settings)
        self.dispatcher = Dispatcher(
            balancer, client.deliver, pace.now, limits=limits, retry=retry, later=pace.later, foresight=foresight, tally=tally
        )

        self._spans = otlp_export(settings.tracing, "baton-router", self.name, os.environ)
        self._flush_timeout_s = settings.tracing.flush_timeout_s
        # Serve gives each request to some replica: `/metrics` through it is of whichever that is. So each also listens by itself.
        prometheus_client.REGISTRY.register(ReadingCollector(lambda: readings(self.dispatcher, self._spans)))
        self._listener = MetricsListener(prometheus_client.REGISTRY, settings.host or ray.util.get_node_ip_address())
        metrics_address = await self._listener.open()

        async def fetch(known_version: int) -> Membership | None:
            membership: Membership | None = await controller.membership.remote(known_version, self.name, metrics_address)
            return membership

        async def status() -> dict[str, Any]:
            async with asyncio.timeout(5.0):
                known: dict[str, Any] = await controller.status.remote()
            return known

        async def targets() -> list[dict[str, Any]]:
            async with asyncio.timeout(5.0):
                found: list[dict[str, Any]] = await controller.targets.remote()
            return found

        async def scaling(last: int) -> dict[str, Any]:
            async with asyncio.timeout(5.0):
                plans: dict[str, Any] = await controller.scaling.remote(last)
            return plans

        self.members = Members(
            self.name, self.dispatcher, fetch, hello_s=settings.router.heartbeat_s, silence_s=settings.router.worker_timeout_s
        )
        client.connect(self.dispatcher, self.members)
        vllm_config = front_half_config(model, settings.served_name, settings.engine_args(Role.PREFILL))
        self._llm = RouterLLM(vllm_config, client)
        server = build_server(model, settings.served_name, vllm_config, settings.router.server_args)
        await connect_server(server, self._llm, AdapterCatalogue(settings.lora, settings.served_name))
        self._app = install(
            server,
            self.name,
            self.dispatcher,
            status,
            self.dispatcher.retry_after_s,
            keys=keys,
            max_body_bytes=settings.router.max_body_bytes,
            overload=self.dispatcher.refusal,
            promises=Promises.of_config(settings),
            targets=targets,
            scaling=scaling,
        )

        if self._spans is not None:
            self._app = Traced(self._app, self._spans.put, settings.tracing.sample, settings.engine.slowdown, clock=pace.now)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def __del__(self) -> None:
        self._listener.close()
        await self.members.close()
        self._llm.shutdown()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close, self._flush_timeout_s)
