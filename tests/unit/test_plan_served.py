"""What `baton plan` writes serves what it predicts: the simulator is given the file alone."""

from __future__ import annotations

import random

import pytest

from core.errors import ConfigError
from deploy.check_config import check
from deploy.plan.answer import Answer, answer
from deploy.plan.question import Question
from deploy.plan.serve_yaml import serve_yaml
from engine.performance.plan.workload import Objectives, Workload
from simulation.goodput import Objective, outcome
from simulation.of_config import cluster_of
from simulation.traces import Trace, TraceRequest

ASKED, LENGTHS = Objectives(1.0, 0.03), Workload(2048, 200)


@pytest.fixture(scope="module")
def found() -> Answer:
    return answer(Question(model="llama-3.1-8b", gpus={"h100": None}, most_gpus=4, workload=LENGTHS, asked=ASKED, tps=(1, 2)))


@pytest.mark.parametrize("split", [True, False])
def test_what_the_file_serves_is_what_was_predicted(found: Answer, split: bool) -> None:
    """Nine of ten requests at four fifths of the predicted rate are as promised, with roles and without."""
    ranked = next(each for each in found.plan.ranked if (each.set_up.prefill is not None) is split)
    config = check(serve_yaml(found, ranked, "plan.yaml"), "plan.yaml").config
    rng, at_s, requests = random.Random(1), 0.0, []
    while at_s < 20.0:
        at_s += rng.expovariate(0.8 * ranked.rate_per_s)
        requests.append(TraceRequest(at_s, LENGTHS.input_tokens, LENGTHS.output_tokens))
    records = cluster_of(config, 1).replay(Trace("as planned", requests, 512))
    assert outcome(records, Objective(ASKED.ttft_s, ASKED.tpot_s)).share >= 0.9


def test_no_request_may_be_longer_than_the_model_takes() -> None:
    """vLLM would not start."""
    asked = Objectives(5.0, 0.1)
    found = answer(Question("llama-2-7b", {"h100": None}, 4, Workload(2048, 256), asked, tps=(1,)))
    config = check(serve_yaml(found, found.plan.ranked[0], "plan.yaml"), "plan.yaml").config
    assert config.engine.args["max_model_len"] == 4096
    with pytest.raises(ConfigError, match=r"takes 4,096 tokens.*of 4,196 is longer"):
        Question("llama-2-7b", {"h100": None}, 4, Workload(4000, 196), asked)
