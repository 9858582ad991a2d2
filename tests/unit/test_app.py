"""The application that Serve is given."""

from __future__ import annotations

from typing import Any

from deploy.app import build


def options(name: str) -> Any:
    """What Ray is told about a deployment's replicas."""
    router = build({"model": "somewhere", "engine": {"env": {"MY_OWN": "1"}}, "router": {"num_cpus": 0.5, "replicas": 3}})
    controller = router._bound_deployment.init_args[2]
    return {"Router": router, "Controller": controller}[name]._bound_deployment.ray_actor_options


def test_routers_never_look_for_a_gpu():
    """vLLM's front half is told that its device is the CPU: on a node without a GPU its GPU build gives up otherwise."""
    env = options("Router")["runtime_env"]["env_vars"]
    assert env["VLLM_TARGET_DEVICE"] == "cpu"
    assert env["MY_OWN"] == "1"


def test_the_controller_takes_no_place():
    """It computes nothing, so it asks for no CPU that a worker could have."""
    assert options("Controller")["num_cpus"] == 0
