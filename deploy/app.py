"""The composition root: what ``import_path: deploy.app:build`` of a Serve config names."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve import Application

from cluster.controller import Controller
from cluster.spec import CONTROLLERS_OWN
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
    """The Serve application for ``args`` of the configuration: one controller, some routers.

    Raises pydantic's ValidationError, and ConfigError for names that are looked up elsewhere.

    The controller starts the workers; the routers can be asked at once, and hold what they are asked until a worker is ready. A router
    that is replaced has ``router.drain_timeout_s`` to finish its streams. `baton up` replaces routers only for what concerns them;
    `serve deploy` replaces every replica of an application whose ``args`` have changed in any way.
    """
    config = BatonConfig.model_validate(args)
    expected.check(config)
    plain = config.model_dump(mode="json")
    for_routers = routers_config(config)
    controller = serve.deployment(
        name="Controller",
        num_replicas=1,
        max_ongoing_requests=1000,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": 0},
    )(Controller).bind(plain, build_worker)
    router = serve.deployment(
        name="Router",
        num_replicas=config.router.replicas,
        max_ongoing_requests=config.router.max_ongoing_requests,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=config.router.drain_timeout_s,
        ray_actor_options={"num_cpus": config.router.num_cpus, "runtime_env": {"env_vars": {**ROUTER_ENV, **config.engine.env}}},
    )(Router)
    # Serve would give every deployment a new version each time, and so replace routers for a change that is none of theirs.
    named = router.options(version=_version(for_routers), _internal=True)
    app: Application = named.bind(for_routers, model_path(config), controller)
    return app


def routers_config(config: BatonConfig) -> dict[str, Any]:
    """The configuration as routers get it: without what only the controller reads, so that its changes are none for them."""
    plain = config.model_dump(mode="json", exclude={"autoscaling"})
    for role in Role:
        plain[str(role)] = {name: value for name, value in plain[str(role)].items() if name not in CONTROLLERS_OWN}
    return plain


def _version(for_routers: dict[str, Any]) -> str:
    """Changes with what a router is made from, and with Baton itself. What Serve can change in a running replica is left to it."""
    router = {name: value for name, value in for_routers["router"].items() if name not in _SERVES_OWN}
    text = json.dumps([version("baton-serve"), {**for_routers, "router": router}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
