"""The composition root: what ``import_path: deploy.app:build`` of a Serve config names."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve import Application

from cluster.budget_actor import Budget
from cluster.budget_claims import terms_of
from cluster.controller import Controller
from cluster.spec import CONTROLLERS_OWN
from core.application_config import Application as Served
from core.application_config import application_of, slug
from core.config import BatonConfig
from core.worker import Role
from deploy.model import model_path
from engine import expected
from router.ingress import Router

if TYPE_CHECKING:
    from cluster.runtime import WorkerRuntime
    from cluster.spec import WorkerSpec


ROUTER_ENV = {"VLLM_TARGET_DEVICE": "cpu"}
"""Without it vLLM's GPU build looks for a GPU when its front half is imported and, on a node that has none, gives up."""


_SERVES_OWN = {"replicas", "max_ongoing_requests", "drain_timeout_s"}
"""Keys of ``router`` that are options of its deployment and nothing else."""


def build_worker(spec: WorkerSpec, node_address: str) -> WorkerRuntime:
    """Composes a worker. Only this name crosses Ray: engines are imported in the worker's process, nowhere else."""
    from deploy import worker

    return worker.build_worker(spec, node_address)


def build(args: dict[str, Any]) -> Application:
    """The Serve application for ``args`` of the configuration: a controller for each model, some routers for all of them.

    Raises pydantic's ValidationError, and ConfigError for names that are looked up elsewhere.

    The controllers start the workers; the routers can be asked at once, and hold what they are asked until a worker is ready. A router
    that is replaced has ``router.drain_timeout_s`` to finish its streams. `baton up` replaces routers only for what concerns them;
    `serve deploy` replaces every replica of an application whose ``args`` have changed in any way.
    """
    served = application_of(args)
    for model in served.models:
        expected.check(model)
    for_routers = [routers_config(model) for model in served.models]
    settings = served.models[0].router
    env = {name: value for model in served.models for name, value in model.engine.env.items()}
    router = serve.deployment(
        name="Router",
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.max_ongoing_requests,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=settings.drain_timeout_s,
        ray_actor_options={"num_cpus": settings.num_cpus, "runtime_env": {"env_vars": {**ROUTER_ENV, **env}}},
    )(Router)
    # Serve would give every deployment a new version each time, and so replace routers for a change that is none of theirs.
    named = router.options(version=_version(for_routers), _internal=True)
    app: Application = named.bind(for_routers, [model_path(model) for model in served.models], *_controllers(served))
    return app


def _controllers(served: Served) -> list[Any]:
    """One for each model. Of several, each calls what is its own by a name of its own."""
    several = not isinstance(served.source, BatonConfig)
    budget = _budget(served)
    return [
        _one_replica(Controller, f"Controller-{slug(model.served_name)}" if several else "Controller").bind(
            model.model_dump(mode="json"), build_worker, model.served_name if several else None, budget, served.gpu_budget or 0.0
        )
        for model in served.models
    ]


def _budget(served: Served) -> Any:
    """Who keeps what the models share; None where they share nothing."""
    if served.gpu_budget is None:
        return None
    terms = {model.served_name: terms_of(model) for model in served.models}
    return _one_replica(Budget, "Budget").bind(served.gpu_budget, terms)


def _one_replica(made_from: type, name: str) -> Any:
    """A deployment that Serve restarts, and that takes no CPU which a worker could have."""
    return serve.deployment(
        name=name,
        num_replicas=1,
        max_ongoing_requests=1000,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": 0},
    )(made_from)


def routers_config(config: BatonConfig) -> dict[str, Any]:
    """The configuration as routers get it: without what only the controller reads, so that its changes are none for them."""
    plain = config.model_dump(mode="json", exclude={"autoscaling"})
    for role in Role:
        plain[str(role)] = {name: value for name, value in plain[str(role)].items() if name not in CONTROLLERS_OWN}
    return plain


def _version(for_routers: list[dict[str, Any]]) -> str:
    """Changes with what a router is made from, and with Baton itself. What Serve can change in a running replica is left to it."""
    made_from = [{**model, "router": {k: v for k, v in model["router"].items() if k not in _SERVES_OWN}} for model in for_routers]
    text = json.dumps([version("baton-serve"), *made_from], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
