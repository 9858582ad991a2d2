"""What routers and workers start their predictions from, by the configuration."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from core.block_keys import BlockKey
from core.config import BatonConfig
from core.errors import ConfigError
from core.ids import Epoch, WorkerId
from core.step_model import StepModel
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState
from engine import expected
from engine.performance.registry import kv_bytes_per_token, step_model_by_name
from router.balancer.registry import make_balancer
from router.foresight import Foresight
from router.plan import WorkerView
from router.predict.step_models import DEFAULT
from router.prefix.index import DEFAULT_BUDGET_BLOCKS

P, D = Role.PREFILL, Role.DECODE
H100, H200 = "h100-llama-3.1-8b-tp1", "h200-llama-3.1-70b-tp4"
MODEL = StepModel(0.01, 1e-5, 1e-9, 0.005, 1e-5, 1e-7)


def config(simulated: dict[str, Any] | None = None, **args: Any) -> BatonConfig:
    """Simulated engines where there are options for them."""
    engine = dict(args.pop("engine", {}))
    transfer = dict(args.pop("kv_transfer", {}))
    if simulated is not None:
        engine |= {"kind": "simulated", "simulated": simulated}
        transfer["backend"] = "simulated"
    return BatonConfig.model_validate({"model": "m", "engine": engine, "kv_transfer": transfer, **args})


STEPS: dict[str, tuple[BatonConfig, StepModel | None, StepModel | None]] = {
    "nothing is said": (config(), None, None),
    "for both pools": (config(engine={"step_times": H100}), step_model_by_name(H100), step_model_by_name(H100)),
    "for one pool": (config(decode={"step_times": H200}), None, step_model_by_name(H200)),
    "a pool's wins": (
        config(engine={"step_times": H100}, prefill={"step_times": H200}),
        step_model_by_name(H200),
        step_model_by_name(H100),
    ),
    "a simulated engine's timing": (config({"timing": {"type": "named", "name": H100}}), *(step_model_by_name(H100),) * 2),
    "told otherwise": (
        config({"timing": {"type": "named", "name": H100}}, engine={"step_times": H200}),
        *(step_model_by_name(H200),) * 2,
    ),
    "six coefficients": (config({"timing": {"type": "polynomial", **msgspec.structs.asdict(MODEL)}}), MODEL, MODEL),
    "a timing that is no model": (config({"timing": {"type": "constant", "seconds": 0.01}}), None, None),
}


@pytest.mark.parametrize(("given", "prefill", "decode"), STEPS.values(), ids=STEPS.keys())
def test_step_times(given: BatonConfig, prefill: StepModel | None, decode: StepModel | None) -> None:
    """A pool's own, else those of all engines, else a simulated engine's own, where there is a model of them."""
    assert (expected.step_model(given, P), expected.step_model(given, D)) == (prefill, decode)
    assert all(type(model) in {StepModel, type(None)} for model in (expected.step_model(given, P), expected.step_model(given, D)))


def test_kv_bytes_per_token() -> None:
    """A simulated engine's own; else those of the model that the step times are of; else nobody knows."""
    assert expected.kv_bytes_per_token(config()) is None
    assert expected.kv_bytes_per_token(config(engine={"step_times": H100})) == kv_bytes_per_token(H100) == 131_072
    assert expected.kv_bytes_per_token(config(decode={"step_times": H200})) == 327_680
    assert expected.kv_bytes_per_token(config({"kv_bytes_per_token": 7}, engine={"step_times": H100})) == 7


def test_links() -> None:
    """What is configured, else what the simulated link is; one without a limit has none to tell."""
    assert expected.link(config()) == expected.ExpectedLink(None, None)
    assert expected.link(config(kv_transfer={"link_gbps": 100, "link_latency_s": 0.0})) == expected.ExpectedLink(100, 0.0)
    assert expected.link(config({"link_gbps": 25.0, "link_latency_s": 0.001})) == expected.ExpectedLink(25.0, 0.001)
    assert expected.link(config({"link_gbps": 25.0}, kv_transfer={"link_gbps": 50})) == expected.ExpectedLink(50, 0.0)
    assert expected.link(config({})) == expected.ExpectedLink(None, 0.0)


@pytest.mark.parametrize(
    ("given", "where", "rule"),
    [
        (
            config(engine={"step_times": "h100-llama-3.1-8b"}),
            "engine.step_times",
            "no step times are called 'h100-llama-3.1-8b'; known: a100-",
        ),
        (config(prefill={"step_times": "x"}), "prefill.step_times", "known: a100-bloom-176b-tp8, "),
        (config({"timing": {"type": "named", "name": "x"}}), "engine.simulated.timing.name", "known: a100-bloom-176b-tp8, "),
        (config({"num_blocks": "many"}), "engine.simulated", "Expected `int`"),
        (config({"num_blocks": 0}), "engine.simulated.num_blocks", "above 0"),
    ],
)
def test_what_nobody_knows_is_said(given: BatonConfig, where: str, rule: str) -> None:
    """Before anything starts: which key, and all the known names."""
    with pytest.raises(ConfigError) as caught:
        expected.check(given)
    assert caught.value.where == where
    assert rule in caught.value.rule


def seen(role: Role) -> WorkerView:
    """A worker that has told nothing yet."""
    card = WorkerCard(WorkerId(f"new-{role}"), Epoch(1), role, WorkerState.READY, "", "", EngineFacts(16, 100, 1000, 8, 1000))
    return WorkerView(card, WorkerLoad())


def test_routers_predict_from_it() -> None:
    """Until workers and links have been heard of: their steps, the bytes of a token, the time of a hand-off."""
    given = config(
        engine={"step_times": H100}, decode={"step_times": H200}, kv_transfer={"link_gbps": 8, "link_latency_s": 0.5}, router=None
    )
    predictor = Foresight.of_config(given).predictor
    assert predictor.step_model(seen(P)) == step_model_by_name(H100)
    assert predictor.step_model(seen(D)) == step_model_by_name(H200)
    assert predictor.kv_bytes_per_token == 131_072
    assert predictor.link(WorkerId("p"), WorkerId("d")).seconds(1e9) == pytest.approx(1.5)


def test_without_it_they_have_a_guess() -> None:
    """As good as any: an 8 B model on one H100, over 80 Gb/s."""
    predictor = Foresight.of_config(config()).predictor
    assert predictor.step_model(seen(P)) == DEFAULT
    assert predictor.kv_bytes_per_token == 131_072
    assert predictor.link(WorkerId("p"), WorkerId("d")).seconds(10e9) == pytest.approx(1.002)


def test_the_index_has_the_configured_budget() -> None:
    """Which is the index's own unless it is set."""
    assert BatonConfig(model="m").router.prefix_index_blocks == DEFAULT_BUDGET_BLOCKS
    index = Foresight.of_config(config(router={"prefix_index_blocks": 3})).prefixes.index
    index.stored(WorkerId("w"), [BlockKey(number) for number in range(10)])
    assert len(index) <= 3


def test_the_default_policy_is_batons_own() -> None:
    """And can be made."""
    policy = BatonConfig(model="m").router.policy
    assert policy == "baton"
    make_balancer(policy, random.Random(0), Foresight().predictor)
