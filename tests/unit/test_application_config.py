"""Both forms of ``args``: one model's keys at the top, or a list of models."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from core.application_config import application_of
from core.errors import ConfigError
from core.worker import Role
from deploy.check_config import WrongFileError, check

TWO = """\
applications:
  - name: baton
    import_path: deploy.app:build
    args:
      router: {replicas: 2}
      host: 10.0.0.1
      models:
        - model: org/large
          prefill: {count: 2}
          objectives: {ttft_s: 1}
        - model: org/small
          decode:
            count: 3
"""


def test_one_model_is_what_it_always_was():
    """Its names are the application's, and there is nothing to share."""
    served = application_of({"model": "somewhere", "autoscaling": {"gpu_budget": 4}})
    (model,) = served.models
    assert (served.name_of(model, "baton"), served.gpu_budget, served.source) == ("baton", None, model)


def test_each_of_several_has_its_own_and_what_is_shared():
    """Pools and objectives are each one's; routers and addresses are everybody's. Names are ones that Ray and Prometheus can have."""
    served = check(TWO, "f").served
    large, small = served.models
    assert (large.pool(Role.PREFILL).count, small.pool(Role.DECODE).count) == (2, 3)
    assert (large.objectives.ttft_s, small.objectives.ttft_s) == (1, None)
    assert {(model.router.replicas, model.host) for model in served.models} == {(2, "10.0.0.1")}
    assert [served.name_of(model, "baton") for model in served.models] == ["baton:org-large", "baton:org-small"]


def test_a_models_own_server_arguments_win():
    """Parsers and templates are not the same for all models."""
    models = [{"model": "a", "server_args": {"tool_call_parser": "hermes"}}, {"model": "b"}]
    served = application_of(
        {"models": models, "router": {"server_args": {"tool_call_parser": "llama3_json", "enable_auto_tool_choice": True}}}
    )
    assert [model.router.server_args["tool_call_parser"] for model in served.models] == ["hermes", "llama3_json"]
    assert all(model.router.server_args["enable_auto_tool_choice"] for model in served.models)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("count: 3", "count: 0", 13, "args.models[1].decode.count: has to be at least 1, not 0"),
        ("count: 3", "cuont: 3", 13, "args.models[1].decode.cuont: unknown key; did you mean `count`?"),
        ("count: 3", "engine_args: {max_model_length: 1}", 13, "args.models[1].decode.engine_args.max_model_length: not an argument"),
        ("model: org/small", "served_model_name: x", 11, "args.models[1].model: is missing"),
        ("objectives: {ttft_s: 1}", "router: {}", 10, "args.models[0].router: unknown key here; it belongs in args as `router`"),
        ("objectives: {ttft_s: 1}", "engine: {step_times: h9}", 10, "args.models[0].engine.step_times: no step times are called 'h9'"),
        (
            "objectives: {ttft_s: 1}",
            "server_args: {max_model_len: 1}",
            10,
            "models[0].server_args.max_model_len: not an argument of vLLM's server",
        ),
        ("host: 10.0.0.1", "model: x", 6, "args.model: unknown key here; it belongs in args as `models[].model`"),
        ("host: 10.0.0.1", "host: 0.0.0.0", 6, "args.host: others are told this address"),
        ("org/small", "org-large", 7, "models[0] and models[1] are both served as `org-large`"),
        ("host: 10.0.0.1", "autoscaling: {gpu_budget: 6}", 4, "`autoscaling.gpu_budget` is 6, and the models begin with 7"),
    ],
)
def test_mistakes_are_named_where_they_are(old: str, new: str, line: int, said: str):
    """With the model's place in the list and the line in the file."""
    assert old in TWO
    with pytest.raises(WrongFileError) as caught:
        check(TWO.replace(old, new, 1), "f")
    assert any(each.startswith(f"f:{line}: ") and said in each for each in str(caught.value).splitlines()), str(caught.value)


@pytest.mark.parametrize(
    ("autoscaling", "said"),
    [
        ({"enabled": True, "scaler": "dynamo"}, r"models\[1\]\.autoscaling\.scaler` is `dynamo`"),
        ({"keep_asleep": 1}, r"models\[1\]\.autoscaling\.keep_asleep` keeps GPUs"),
    ],
)
def test_what_does_not_go_with_a_shared_budget(autoscaling: dict[str, Any], said: str):
    """A scaler that does not ask for its part, and workers that rest on other models' GPUs."""
    models = [{"model": "a"}, {"model": "b", "autoscaling": autoscaling, "objectives": {"ttft_s": 1, "tpot_s": 1}}]
    application_of({"models": models})
    with pytest.raises(ValidationError, match=said):
        application_of({"models": models, "autoscaling": {"gpu_budget": 9}})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"lora": {"adapters": {"poet": {"path": "/other"}}}},
            r"models\[1\].lora.adapters.poet` is what `models\[0\].lora` is called",
        ),
        ({"lora": {"adapters": {"first": {"path": "/p"}}}}, r"models\[1\].lora.adapters.first` is what `models\[0\]` is called"),
        ({"lora": {"directory": "/adapters"}}, r"models\[1\].lora.directory` is that of `models\[0\].lora`, too"),
        ({"prefill": {"num_gpus": 1}, "decode": {"num_gpus": 1}}, "cannot be shared where some models have GPUs"),
    ],
)
def test_what_two_models_cannot_both_have(changed: dict[str, Any], said: str):
    """An adapter's name selects one model; GPUs and CPUs do not add up."""
    lora = {"adapters": {"poet": {"path": "/poet"}}, "directory": "/adapters"}
    args: dict[str, Any] = {"models": [{"model": "first", "lora": lora}, {"model": "second"}], "autoscaling": {"gpu_budget": 9}}
    application_of(args)
    args["models"][1] |= changed
    with pytest.raises(ValidationError, match=said):
        application_of(args)


def test_one_of_several_models_is_chosen_by_its_name():
    """And has to be, where a command is about one."""
    several = application_of({"models": [{"model": "first"}, {"model": "second"}]})
    assert [model.served_name for model in several.only("second").models] == ["second"]
    with pytest.raises(ConfigError, match="serves first, second; `--model` says which is meant"):
        several.only(None)
    with pytest.raises(ConfigError, match="does not serve `third`, but first, second"):
        several.only("third")
    assert application_of({"model": "first"}).only(None).models[0].model == "first"
