"""What both systems of the comparison are given, and what the client makes of their answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.peers.drive import drive, prompt_of
from benchmarks.peers.fleet import Fleet
from benchmarks.peers.virtual import virtual
from core.config import BatonConfig
from core.router_config import RouterConfig
from engine.sim_config import SimulatedEngineConfig
from simulation.goodput import Objective
from simulation.traces import Trace, TraceRequest

FLEET = Fleet("h100-llama-3.1-8b-tp1", slowdown=10.0, prefill=2, decode=2)


def test_prompts_share_what_their_blocks_share() -> None:
    """The same block is the same tokens, the rest of a prompt is nobody else's, and a last block may be partial."""
    one = prompt_of(TraceRequest(0.0, 40, 1, (7, 8)), 0, 16, 4096)
    other = prompt_of(TraceRequest(0.0, 30, 1, (7, 9)), 1, 16, 4096)
    assert (len(one), len(other)) == (40, 30)
    assert one[:16] == other[:16]
    assert one[16:30] != other[16:]
    assert one == prompt_of(TraceRequest(5.0, 40, 9, (7, 8)), 0, 16, 4096)
    assert prompt_of(TraceRequest(0.0, 8, 1), 0, 16, 4096) != prompt_of(TraceRequest(0.0, 8, 1), 1, 16, 4096)


@pytest.mark.parametrize(("batch", "context"), [(1, 100), (4, 1000), (32, 5000), (100, 3000)])
def test_both_have_the_same_step_times(tmp_path, batch: int, context: int) -> None:
    """What the mocker reads from its table, in straight lines, is within 1 % of what Baton's engines are configured with."""
    FLEET.write_profile(tmp_path / "profile.npz")
    table = np.load(tmp_path / "profile.npz")
    step, tokens = FLEET.slowed, batch * context
    prefill_ms = np.interp(tokens, table["prefill_isl"], table["prefill_ttft_ms"])
    if tokens <= FLEET.max_model_len:
        assert prefill_ms == pytest.approx(1000 * step.prefill_s(tokens, 0, FLEET.max_model_len), rel=0.01)
    by_context = [np.interp(tokens, table["decode_active_kv_tokens"], column) for column in table["decode_itl"].T]
    decode_ms = np.interp(context, table["decode_context_length"], by_context)
    assert decode_ms == pytest.approx(1000 * step.decode_s(batch, tokens), rel=0.01)


def test_everything_is_slowed_alike(tmp_path) -> None:
    """The mocker's steps and links are; Baton is told how slow time is, engines and routers alike, and everything else is as it would be on
    time: steps, links, leases and promises."""
    fast, slow = Fleet("h100-llama-3.1-8b-tp1", 1.0, 1, 1), Fleet("h100-llama-3.1-8b-tp1", 10.0, 1, 1)
    assert slow.slowed.prefill_s(1000, 0, 8192) == pytest.approx(10 * fast.slowed.prefill_s(1000, 0, 8192))
    args, at_once = (fleet.baton_args(tmp_path, "baton", 0.5, 0.02) for fleet in (slow, fast))
    config = BatonConfig.model_validate(args)
    assert config.engine.slowdown == 10.0
    assert config.router.heartbeat_s == 10 * RouterConfig().heartbeat_s
    assert args["engine"]["simulated"].pop("slowdown") == 10 * at_once["engine"]["simulated"].pop("slowdown")
    assert [args[part] for part in ("engine", "kv_transfer", "objectives")] == [
        at_once[part] for part in ("engine", "kv_transfer", "objectives")
    ]
    assert args["objectives"] == {"ttft_s": 0.5, "tpot_s": 0.02}
    bandwidth = slow.mocker_args(tmp_path)[slow.mocker_args(tmp_path).index("--kv-transfer-bandwidth") + 1]
    assert float(bandwidth) == 200 / 8 / 10


def test_the_engine_configuration_holds() -> None:
    """Every key is one that simulated engines know."""
    simulated = FLEET.baton_args(Path("model"), "baton", 0.5, 0.02)["engine"]["simulated"]
    assert simulated.keys() <= set(SimulatedEngineConfig.__struct_fields__)


async def _completions(request: web.Request) -> web.StreamResponse:
    """A server: as many tokens as are asked for, the second of them without text; for 13 it is full, for 14 it breaks off."""
    body = await request.json()
    count = body["max_tokens"]
    if count == 13:
        return web.Response(status=429, text="full")
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(count):
        chunk = {"choices": [{"text": "" if number == 1 else "x", "index": 0}], "usage": None}
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
    if count != 14:
        usage = {"choices": [], "usage": {"completion_tokens": count}}
        await response.write(f"data: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode())
    return response


async def test_what_a_client_counts() -> None:
    """Tokens as the server counts them; refused and broken ones have a reason and are not complete."""
    app = web.Application()
    app.router.add_post("/v1/completions", _completions)
    trace = Trace("t", [TraceRequest(0.0, 8, tokens) for tokens in (1, 5, 13, 14)], 16)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        one, five, refused, broken = await drive(url, "m", trace, slowdown=1.0, vocab_size=4096)
    assert (one.output_tokens, one.is_complete, one.tpot_s) == (1, True, None)
    assert (five.output_tokens, five.is_complete) == (5, True)
    assert (refused.failure, refused.is_complete) == ("429: full", False)
    assert broken.failure.startswith("ValueError: 0 tokens in 13 pieces")
    assert not broken.is_complete


def test_the_virtual_clock_has_both_rules() -> None:
    """Three times what two workers can do in time: with Baton's rule some are refused, and more are in time than with Dynamo's, by which
    nobody is refused, and most are late."""
    trace = Trace("much", [TraceRequest(0.03 * number, 4000, 8) for number in range(120)], 16)
    objective, fleet = Objective(0.5, 0.02), Fleet("h100-llama-3.1-8b-tp1", 1.0, 1, 1)
    ours = virtual(fleet, "baton", objective, trace, 1, refuses=True)
    theirs = virtual(fleet, "dynamo_kv", objective, trace, 1, refuses=False)
    assert not [record.failure for record in theirs if record.failure]
    assert 20 < sum(bool(record.failure) for record in ours) < 100
    assert sum(map(objective.is_met, ours)) > 2 * sum(map(objective.is_met, theirs)) > 0
