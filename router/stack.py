"""All that a router has for one model: its books, its links to the workers, and vLLM's front half and server. None knows of another."""

from __future__ import annotations

import random
from collections.abc import Sequence

from starlette.types import ASGIApp

from cluster.signals.http import Http
from cluster.span_export import SpanExport
from core.config import BatonConfig
from core.ids import RouterId
from core.metrics.tally import Reading
from core.metrics.words import Why
from core.pace import Pace
from core.worker import Role
from engine.adapters import AdapterCatalogue
from router.balancer.registry import make_balancer
from router.cluster_client import ClusterClient
from router.colleagues import Colleagues
from router.controller_calls import ControllerCalls
from router.dispatcher import Dispatcher
from router.foresight import Foresight
from router.front_half import RouterLLM, build_server, connect_server, front_half_config
from router.http_trace import Traced
from router.keys import KeyRing
from router.limits import Limits
from router.members import Members
from router.objectives import Promises
from router.readings import readings
from router.retry import Retry
from router.routes import install
from router.service import WantedService
from router.tally import RouterTally

_COLLEAGUE_S = 1.0
"""Within which another router answers."""


class Stack:
    """Can be counted from the start, and asked after ``connect``. ``model`` is a directory or hub name. Spans of all models go the same
    way out: one of them ``counts_spans``."""

    def __init__(self, settings: BatonConfig, model: str, router: RouterId, spans: SpanExport | None, counts_spans: bool = True) -> None:
        self.settings = settings
        self._model = model
        self._router = router
        self._spans = spans
        self._counted_spans = spans if counts_spans else None
        self._client = ClusterClient()
        self._adapters = AdapterCatalogue(settings.lora, settings.served_name)
        foresight = Foresight.of_config(settings)
        balancer = make_balancer(settings.router.policy, random.Random(), foresight.predictor)
        retry = Retry(settings.router.retry.max_losses, settings.router.retry.backoff_s, random.random)
        limits = Limits.of_config(settings)
        self._pace = pace = Pace(settings.engine.slowdown)  # what it predicts and promises is in the engines' seconds
        tally = RouterTally.of_config(settings)
        self.dispatcher = Dispatcher(
            balancer, self._client.deliver, pace.now, limits=limits, retry=retry, later=pace.later, foresight=foresight, tally=tally
        )
        self._members: Members | None = None
        self.colleagues = Colleagues(router, self.dispatcher.timelines, self._secret, Http(_COLLEAGUE_S))
        self._llm: RouterLLM | None = None

    def readings(self) -> Sequence[Reading]:
        """For Prometheus."""
        return readings(self.dispatcher, self._counted_spans)

    def serves(self, name: str) -> bool:
        """Whether it answers to that name: the model's, or one of its adapters'."""
        return name == self.settings.served_name or self._adapters.find(name) is not None

    def refused(self, why: Why, service: WantedService | None) -> None:
        """Counts a request that came no further than the door."""
        self.dispatcher.tally.refused(why, service)

    def _secret(self) -> str | None:
        return None if self._members is None else self._members.secret

    async def connect(self, controller: ControllerCalls, keys: KeyRing | None, models: Sequence[str] = ()) -> ASGIApp:
        """Begins to follow the controller; returns the server. ``models`` are the names of all, where others are served beside it."""
        settings, dispatcher = self.settings, self.dispatcher
        self._members = Members(
            self._router,
            dispatcher,
            controller.membership,
            hello_s=settings.router.heartbeat_s,
            silence_s=settings.router.worker_timeout_s,
        )
        self._client.connect(dispatcher, self._members)
        vllm_config = front_half_config(self._model, settings.served_name, settings.engine_args(Role.PREFILL))
        self._llm = RouterLLM(vllm_config, self._client)
        server = build_server(self._model, settings.served_name, vllm_config, settings.router.server_args)
        await connect_server(server, self._llm, self._adapters)
        app = install(
            server,
            self._router,
            dispatcher,
            controller.status,
            dispatcher.retry_after_s,
            keys=keys,
            max_body_bytes=settings.router.max_body_bytes,
            overload=dispatcher.refusal,
            promises=Promises.of_config(settings),
            targets=controller.targets,
            scaling=controller.scaling,
            model=settings.served_name,
            models=models,
            colleagues=self.colleagues,
        )
        if self._spans is None:
            return app
        return Traced(app, self._spans.put, settings.tracing.sample, settings.engine.slowdown, clock=self._pace.now)

    async def close(self) -> None:
        """Links first: nothing comes for the front half any more. Also where ``connect`` has failed."""
        if self._members is not None:
            await self._members.close()
        if self._llm is not None:
            self._llm.shutdown()
        await self.colleagues.close()
