"""The composition root: what ``import_path: deploy.app:build`` of a Serve config names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve import Application

from cluster.controller import Controller
from core.config import BatonConfig
from deploy.model import model_path
from router.ingress import Router

if TYPE_CHECKING:
    from cluster.runtime import WorkerRuntime
    from cluster.spec import WorkerSpec


ROUTER_ENV = {"VLLM_TARGET_DEVICE": "cpu"}
"""Without it vLLM's GPU build looks for a GPU when its front half is imported and, on a node that has none, gives up."""


def build_worker(spec: WorkerSpec, node_address: str) -> WorkerRuntime:
    """Composes a worker. Only this name crosses Ray: engines are imported in the worker's process, nowhere else."""
    from deploy import worker

    return worker.build_worker(spec, node_address)


def build(args: dict[str, Any]) -> Application:
    """The Serve application for ``args`` of the configuration: one controller, some routers. Raises pydantic's ValidationError.

    The controller starts the workers; the routers can be asked at once and answer 503 until a worker is ready.
    """
    config = BatonConfig.model_validate(args)
    plain = config.model_dump(mode="json")
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
        ray_actor_options={"num_cpus": config.router.num_cpus, "runtime_env": {"env_vars": {**ROUTER_ENV, **config.engine.env}}},
    )(Router)
    app: Application = router.bind(plain, model_path(config), controller)
    return app
