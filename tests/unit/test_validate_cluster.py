"""A deployment and its model: what is asked of it, what is fitted to what, and what is said of the difference. No deployment is started."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.validate_cluster.errors import error, percentile, table
from benchmarks.validate_cluster.fitting import Overheads, Reading, Seen, kv_bytes_per_token, port, step_model
from benchmarks.validate_cluster.virtual import replay, spec
from benchmarks.validate_cluster.workload import BLOCK_TOKENS, Blocks, open_loop, prompts_alone, together
from core.step_model import StepModel
from simulation.kv_network import Port

STEP = StepModel(0.004, 4e-5, 1e-9, 0.005, 2e-4, 1e-7)
BYTES_PER_TOKEN = 4096


def _seen(prompt_tokens: int, batch: int = 1, output_tokens: int = 40) -> Seen:
    """What a router tells of a deployment whose steps take exactly ``STEP``, over a link of 8 ms and 100 MB/s."""
    prefill_s = STEP.prefill_s(prompt_tokens, 0, 2048)
    step_s = STEP.decode_s(batch, round(batch * (prompt_tokens + output_tokens / 2)))
    moved = prompt_tokens * BYTES_PER_TOKEN
    decoding_s = prefill_s + 0.008 + moved / 100e6 + STEP.decode_s(1, prompt_tokens + 1)
    finished_s = decoding_s + (output_tokens - 2) * step_s
    return Seen(0.0, prompt_tokens, output_tokens, 0.0, prefill_s, prefill_s, decoding_s, finished_s, moved, prompt_tokens)


def test_steps_and_link_are_found_again() -> None:
    """From probes of a deployment that keeps to its model exactly, the same model comes out."""
    alone = [_seen(tokens) for tokens in (32, 96, 200, 400, 700, 1024)]
    batches = [[_seen(tokens, batch)] * batch for batch, tokens in ((1, 64), (2, 64), (4, 64), (8, 64), (2, 768), (4, 768))]
    model = step_model(alone, batches)
    for tokens in (50, 300, 900):
        assert model.prefill_s(tokens, 0, 2048) == pytest.approx(STEP.prefill_s(tokens, 0, 2048), rel=0.02)
    for batch, context in ((1, 100), (3, 600), (6, 3000)):
        assert model.decode_s(batch, context) == pytest.approx(STEP.decode_s(batch, context), rel=0.02)
    link = port(alone, STEP)
    assert link.latency_s == pytest.approx(0.008, rel=0.01)
    assert link.gbps == pytest.approx(0.8, rel=0.01)
    assert kv_bytes_per_token(alone) == BYTES_PER_TOKEN


def test_a_link_never_takes_less_than_nothing() -> None:
    """Noise can make long transfers look quicker than short ones; what comes out is still a link."""
    backwards = [_seen(tokens) for tokens in (1024, 32)]
    noisy = [
        Seen(0.0, a.prompt_tokens, 40, 0.0, 0.01, 0.01, 0.01, 1.0, b.transfer_bytes, 1)
        for a, b in zip(backwards, backwards[::-1], strict=True)
    ]
    found = port(noisy, STEP)
    assert found.gbps > 0
    assert found.latency_s > 0


def test_where_nothing_was_handed_over_there_is_nothing_to_validate() -> None:
    """Said at once: a deployment that silently computes prompts twice would come out well otherwise."""
    with pytest.raises(ValueError, match="no KV was handed over"):
        kv_bytes_per_token([Seen(0.0, 10, 4, 0.0, 0.1, 0.1, 0.2, 0.3, 0, 0)])


def test_overheads_are_what_the_simulation_left_out() -> None:
    """Put back on what they were taken from, the median of each is the measured one."""
    simulated = [Reading(0.1 * n, 0.01) for n in range(1, 6)]
    measured = [Reading(reading.ttft_s + 0.02, reading.tpot_s * 1.5) for reading in simulated]
    overheads = Overheads.between(measured, simulated)
    for readings in (overheads.fixed(simulated), overheads.drawn(simulated, random.Random(1))):
        assert [reading.ttft_s for reading in readings] == pytest.approx([reading.ttft_s for reading in measured])
        assert [reading.tpot_s for reading in readings] == pytest.approx([reading.tpot_s for reading in measured])


@given(st.integers(1, 50), st.floats(0.1, 50.0), st.integers(0, 2**32))
def test_no_two_prompts_share_a_block(requests: int, per_s: float, seed: int) -> None:
    """Neither in one load nor in two: nothing is found in a cache that is not in the model. Lengths stay in their bounds."""
    blocks = Blocks()
    loads = [open_loop(blocks, random.Random(seed), requests, per_s), prompts_alone(blocks), together(blocks, 3, 200)]
    names = [block for load in loads for request in load.requests for block in request.block_hashes]
    assert len(names) == len(set(names))
    for load in loads:
        arrivals_s = [request.arrival_s for request in load.requests]
        assert arrivals_s == sorted(arrivals_s)
        for request in load.requests:
            assert 32 <= request.prompt_tokens <= 1024
            assert 4 <= request.output_tokens <= 64
            assert len(request.block_hashes) == -(-request.prompt_tokens // BLOCK_TOKENS)


@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (2, 2)])
def test_the_simulated_deployment_serves_the_load(prefill: int, decode: int) -> None:
    """Every request, and at a rate that leaves it idle mostly it takes what its steps and its link take."""
    load = prompts_alone(Blocks())
    cluster = spec(prefill, decode, STEP, Port(0.8, 0.008), 1000, BYTES_PER_TOKEN)
    for request, reading in zip(load.requests, replay(cluster, load, 1), strict=True):
        assert reading.ttft_s == pytest.approx(STEP.prefill_s(request.prompt_tokens, 0, 2048), rel=0.01)
        assert reading.tpot_s > STEP.decode_s(1, request.prompt_tokens)


@pytest.mark.parametrize(("values", "share", "expected"), [([3.0], 0.99, 3.0), ([1.0, 3.0, 2.0], 0.5, 2.0), (range(101), 0.9, 90)])
def test_percentiles_are_values_that_were_measured(values: list[float], share: float, expected: float) -> None:
    """The nearest by rank."""
    assert percentile(values, share) == expected


def test_what_is_within_the_target_is_said() -> None:
    """15 % either way, with drawn overheads."""
    measured, near, far = ([Reading(ttft_s, 0.01)] for ttft_s in (1.0, 1.14, 0.8))
    assert error(1.14, 1.0) == pytest.approx(0.14)
    lines = table(measured, far, near).splitlines()
    assert "| -20.0% |" in lines[2]
    assert lines[2].endswith("| +14.0% | yes |")
    assert table(measured, near, far).splitlines()[2].endswith("| -20.0% | no |")
