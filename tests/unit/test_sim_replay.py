"""The validation's own tools: replay under a virtual clock, and calibration from a request log."""

import random

import pytest

from benchmarks.sim_calibrate import calibrate
from benchmarks.sim_replay import Arrival, Replay
from benchmarks.validate_engine import LOGS
from benchmarks.vllm_log import read_log
from core.step_model import StepModel
from engine.sim_config import SimulatedEngineConfig
from engine.sim_timing import ConstantTime

CONFIG = SimulatedEngineConfig(num_blocks=4096, max_num_seqs=8, max_num_batched_tokens=512, kv_events=False)


@pytest.mark.parametrize(("depth", "first_s"), [(1, 2.0), (2, 3.0)])
def test_scheduling_ahead_delays_a_newcomer_by_one_step(depth: int, first_s: float) -> None:
    """Who comes while a step of one second runs is in the next one, or, when that is decided already, in the one behind it."""
    timed, _ = Replay(CONFIG, ConstantTime(1.0), depth).run([Arrival(0.0, [1] * 10, 9), Arrival(0.5, [2] * 10, 2)])
    assert timed[0].first_s == 1.0
    assert timed[0].tpot_s == 1.0
    assert timed[1].first_s == first_s


@pytest.mark.parametrize(("depth", "first_s"), [(1, 3.0), (2, 4.0)])
def test_scheduling_ahead_leaves_a_slot_empty_for_one_step(depth: int, first_s: float) -> None:
    """A slot whose request ends with the second step is used in the third, or, when that is decided already, in the fourth."""
    config = SimulatedEngineConfig(num_blocks=4096, max_num_seqs=2, kv_events=False)
    arrivals = [Arrival(0.0, [1] * 10, 2), Arrival(0.0, [2] * 10, 9), Arrival(0.1, [3] * 10, 1)]
    timed, _ = Replay(config, ConstantTime(1.0), depth).run(arrivals)
    assert timed[0].last_s == 2.0
    assert timed[2].first_s == first_s


def test_calibration_finds_the_model_behind_a_log() -> None:
    """From first and last tokens of the first half alone, the rest comes out within 3 % in the mean."""
    chance = random.Random(5)
    truth = StepModel(0.012, 5e-5, 0.0, 0.010, 4e-4, 1e-6)
    arrivals = [
        Arrival(index / 8, [chance.randrange(1000) for _ in range(chance.randrange(20, 800))], chance.randrange(2, 60))
        for index in range(80)
    ]
    log, _ = Replay(CONFIG, truth).run(arrivals)
    model = calibrate(CONFIG, 2, arrivals, log, until_s=5.0, floor=StepModel())
    again, _ = Replay(CONFIG, model).run(arrivals)
    held_back = [index for index, timed in enumerate(log) if timed.first_s > 5.0]
    assert sum(again[i].ttft_s for i in held_back) == pytest.approx(sum(log[i].ttft_s for i in held_back), rel=0.03)
    assert sum(again[i].tpot_s for i in held_back) == pytest.approx(sum(log[i].tpot_s for i in held_back), rel=0.03)


def test_the_log_is_read_as_it_was_configured() -> None:
    """Budgets and blocks come from the configuration, prompts and outputs from the workload, with the prefixes they share."""
    log = read_log(LOGS)
    assert len(log.arrivals) == len(log.timed) == 300
    assert (log.config.max_num_seqs, log.config.max_num_batched_tokens) == (128, 2048)
    assert log.config.num_blocks == int((96e9 * 0.9 - 2 * 8.03e9) / (131_072 * 16))
    assert [len(log.arrivals[0].prompt), log.arrivals[0].output_tokens] == [2358, 531]
    assert all(timed.arrival_s <= timed.first_s <= timed.last_s for timed in log.timed)
    assert len({tuple(arrival.prompt[:16]) for arrival in log.arrivals}) < 300
