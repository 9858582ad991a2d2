"""The application that Serve is given."""

from __future__ import annotations

from typing import Any

import pytest

from core.config import BatonConfig
from core.errors import ConfigError
from deploy.app import build
from router.ingress import Router


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


def router(**changed: Any) -> Any:
    """The router's deployment under a configuration."""
    return build({"model": "somewhere", "prefill": {"count": 2}} | changed)._bound_deployment


def test_a_router_that_goes_may_finish_its_streams():
    """For as long as the configuration says, not for Serve's 20 s."""
    assert router()._deployment_config.graceful_shutdown_timeout_s == 600
    assert router(router={"drain_timeout_s": 77})._deployment_config.graceful_shutdown_timeout_s == 77


@pytest.mark.parametrize(
    ("changed", "is_replaced"),
    [
        ({"router": {"policy": "random"}}, True),
        ({"router": {"retry": {"max_losses": 5}}}, True),
        ({"prefill": {"count": 2, "max_prefill_tokens": 5}}, True),
        ({"prefill": {"count": 2, "step_times": "h100-llama-3.1-8b-tp1"}}, True),
        ({"kv_transfer": {"link_gbps": 100}}, True),
        ({"router": {"drain_timeout_s": 77, "replicas": 5}}, False),
        ({"prefill": {"count": 3}, "decode": {"surge": 1, "drain_timeout_s": 3}}, False),
    ],
    ids=["policy", "retry", "admission", "step times", "links", "its own options", "the controller's"],
)
def test_routers_are_replaced_for_what_concerns_them(changed: dict[str, Any], is_replaced: bool):
    """What Serve goes by is the version, and what a replica is made from agrees with it."""
    before, after = router(), router(**changed)
    assert (before._version != after._version) is is_replaced
    assert before._version == router()._version
    (made,), (remade,) = before.init_args[0], after.init_args[0]
    assert ({**made, "router": 0} == {**remade, "router": 0}) or is_replaced
    BatonConfig.model_validate(remade)


def test_what_nobody_knows_is_refused_before_anything_starts():
    """Also by `serve deploy`, which does not check the file first."""
    with pytest.raises(ConfigError, match=r"^decode\.step_times: no step times are called 'h100'; known: a100-"):
        build({"model": "somewhere", "decode": {"step_times": "h100"}})


def test_each_of_several_models_has_a_controller_of_its_own():
    """Beside one deployment of routers, which is given all of them in the order of the file."""
    routers = build({"models": [{"model": "somewhere/a"}, {"model": "b", "engine": {"env": {"ONE": "1"}}}], "router": {"replicas": 2}})
    configs, paths, *controllers = routers._bound_deployment.init_args
    assert [config["model"] for config in configs] == paths == ["somewhere/a", "b"]
    assert [config["router"]["replicas"] for config in configs] == [2, 2]
    assert [controller._bound_deployment.name for controller in controllers] == ["Controller-somewhere-a", "Controller-b"]
    assert [controller._bound_deployment.init_args[2] for controller in controllers] == ["somewhere/a", "b"]
    assert routers._bound_deployment.ray_actor_options["runtime_env"]["env_vars"]["ONE"] == "1"


def test_who_shares_a_budget_is_told_who_keeps_it():
    """One deployment for all models, which knows what each of them begins with; none where nothing is shared."""
    models = [{"model": "a", "prefill": {"count": 2}}, {"model": "b"}]
    for args, shared in (({}, None), ({"autoscaling": {"gpu_budget": 6}}, (6, {"a": 3.0, "b": 2.0}))):
        _, _, *controllers = build({"models": models, **args})._bound_deployment.init_args
        keepers = {controller._bound_deployment.init_args[3] for controller in controllers}
        assert len(keepers) == 1
        keeper = keepers.pop()
        if shared is None:
            assert keeper is None
        else:
            budget, terms = keeper._bound_deployment.init_args
            assert (budget, {name: of.least_gpus for name, of in terms.items()}) == shared


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # Python calls it once more when the object goes
async def test_a_router_that_is_ended_while_it_starts():
    """Ctrl-C while its libraries are loaded: Serve ends a replica whose ``__init__`` has not come far, and logs what that raises."""
    await Router.__new__(Router).__del__()
