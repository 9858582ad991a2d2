"""What a worker does on its own side of the data plane, whoever asks: admission, draining, a hung engine, a router that is gone.

The router here is bare: a socket, and everything the worker has said to it.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import msgspec
import pytest

from cluster.channel import ChannelKeys
from cluster.messages import (
    AbortLegs,
    AddLeg,
    Failed,
    FromWorker,
    Hello,
    LegKind,
    MoveLegs,
    Pulse,
    Refused,
    StepOutputs,
)
from core.handle import KVHandle
from core.ids import LegId, WorkerId
from core.pool_config import PoolConfig
from core.worker import OthersLoad
from engine.sim_timing import ConstantTime
from engine.vllm_codec import RequestCodec
from tests.contract.engine_contract import ask, prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import MiniWorker
from tests.support.one_worker import EPOCH, BareRouter, Stage, one_worker

PREFILL, DECODE, WHOLE = LegKind.PREFILL, LegKind.DECODE, LegKind.WHOLE
M = TypeVar("M")


class Asker(BareRouter):
    """Asks one worker for legs."""

    def __init__(self, worker: MiniWorker, keys: ChannelKeys, name: str) -> None:
        super().__init__(worker, keys, name)
        self.heard: list[tuple[float, FromWorker]] = []

    def take(self, message: FromWorker, frames: Sequence[Any]) -> None:
        self.heard.append((time.monotonic(), message))

    def add(self, name: str, tokens: int, max_tokens: int = 4, kind: LegKind = WHOLE, **more: Any) -> None:
        request = ask(name, prompt_of(tokens, len(self.heard) % 13), max_tokens)
        self._end.send(AddLeg(LegId(name), EPOCH, kind, tokens, **more), RequestCodec().encode(request))

    def greet(self) -> None:
        self._end.send(Hello())

    def add_unreadable(self, name: str, tokens: int) -> None:
        self._end.send(AddLeg(LegId(name), EPOCH, WHOLE, tokens), [b"\xc1"])

    def abort(self, *names: str) -> None:
        self._end.send(AbortLegs([LegId(name) for name in names]))

    def all(self, kind: type[M]) -> list[M]:
        return [message for _, message in self.heard if isinstance(message, kind)]

    async def hears(self, kind: type[M], count: int = 1) -> list[M]:
        await assert_eventually(lambda: len(self.all(kind)) >= count, 10.0, f"{count} {kind.__name__}")
        return self.all(kind)


@pytest.fixture
async def stage() -> AsyncIterator[Stage[Asker]]:
    async with one_worker(Asker) as stage:
        yield stage


# -- admission ---------------------------------------------------------------------------------------------------------------


async def test_prompts_beyond_the_bound_are_refused_at_once(stage: Stage[Asker]) -> None:
    """The first is taken however long; the next is told why not, with the numbers; once the first has its token there is room."""
    worker = await stage.worker(PoolConfig(max_prefill_tokens=32, headroom_tokens=0))
    router = stage.router(worker)
    worker.gate.shut()
    router.add("long", 100, kind=PREFILL)
    router.add("next", 10)
    [refused] = await router.hears(Refused)
    assert (refused.leg, refused.busy) == ("next", True)
    assert "100 prompt tokens" in refused.reason
    assert "32" in refused.reason
    worker.gate.open()
    await router.hears(StepOutputs)
    router.add("later", 10)
    await router.hears(StepOutputs, 4)
    assert len(router.all(Refused)) == 1


async def test_running_answers_keep_their_headroom(stage: Stage[Asker]) -> None:
    """32 blocks, 16 of them for each answer to grow into: two short answers fit, a third is refused until one has ended."""
    worker = await stage.worker(PoolConfig(headroom_tokens=16 * 14), num_blocks=32, max_model_len=512)
    router = stage.router(worker)
    for name in ("a", "b"):
        router.add(name, 20, 400)
        await assert_eventually(lambda: len(router.all(StepOutputs)) > 0, what="it runs")
    router.add("c", 20, 4)
    [refused] = await router.hears(Refused)
    assert (refused.leg, refused.busy) == ("c", True)
    assert "KV blocks" in refused.reason
    router.abort("a", "b")
    await assert_eventually(worker.is_free, what="both are gone")
    router.add("c2", 20, 4)
    await assert_eventually(worker.is_free, what="it is done")
    assert len(router.all(Refused)) == 1


async def test_no_more_answers_than_the_engine_runs(stage: Stage[Asker]) -> None:
    """A leg too many would wait in the engine, unseen."""
    worker = await stage.worker(max_num_seqs=2)
    router = stage.router(worker)
    worker.gate.shut()
    for name in ("a", "b", "c"):
        router.add(name, 20)
    [refused] = await router.hears(Refused)
    assert (refused.leg, refused.busy, "2 legs run" in refused.reason) == ("c", True, True)
    worker.gate.open()


async def test_a_router_is_told_what_others_have_there(stage: Stage[Asker]) -> None:
    """With every message; not what it has there itself, which it knows better. And how long steps take, once that is known."""
    worker = await stage.worker(timing=ConstantTime(0.01))
    one, two = stage.router(worker), stage.router(worker)
    two.greet()
    one.add("a", 40, max_tokens=600)
    await assert_eventually(lambda: any(pulse.load.others.decoding for pulse in two.all(Pulse)), 10.0, "the other's leg decodes")
    others = next(pulse.load.others for pulse in two.all(Pulse) if pulse.load.others.decoding)
    assert (others.legs, others.prompt_tokens) == (1, 0)
    assert others.context_tokens > 40
    assert all(message.load.others == OthersLoad() for message in one.all(StepOutputs))
    await assert_eventually(lambda: one.all(StepOutputs)[-1].load.step is not None, 20.0, "its steps are known")
    step = one.all(StepOutputs)[-1].load.step
    assert step is not None
    assert 0.005 < step.decode_s(1, 300) < 0.1
    one.abort("a")
    await assert_eventually(lambda: two.all(Pulse)[-1].load.others == OthersLoad(), 10.0, "nothing is left of it")


async def test_a_router_without_legs_hears_of_others_before_the_next_pulse(stage: Stage[Asker]) -> None:
    """That another router's prompt has come, and that it has ended. Of the tokens between nothing is said for their own sake."""
    worker = await stage.worker(pulse_s=18.0)
    one, two = stage.router(worker), stage.router(worker)
    two.greet()
    await two.hears(Pulse)
    worker.gate.shut()
    one.add("a", 40, max_tokens=5)
    await assert_eventually(lambda: two.all(Pulse)[-1].load.others.prompt_tokens == 40, 12.0, "its prompt is there")
    worker.gate.open()
    await assert_eventually(lambda: two.all(Pulse)[-1].load.others == OthersLoad(), 12.0, "it has ended")
    assert len(two.all(Pulse)) <= 4


async def test_a_refused_request_is_not_even_read(stage: Stage[Asker]) -> None:
    """Reading takes longer than refusing, most of all for what is refused most: long prompts."""
    worker = await stage.worker(PoolConfig(max_prefill_tokens=32, headroom_tokens=0))
    router = stage.router(worker)
    worker.gate.shut()
    router.add("a", 100)
    router.add_unreadable("b", 100)
    [refused] = await router.hears(Refused)
    assert refused.leg == "b"
    assert not router.all(Failed)
    worker.gate.open()


# -- draining ----------------------------------------------------------------------------------------------------------------

HANDLE = KVHandle(WorkerId("p"), EPOCH, LegId("x"), 20, 2, 10.0, {})


async def test_a_draining_worker_takes_nothing_new(stage: Stage[Asker]) -> None:
    """Not for later either, so not ``busy``; also not what has tokens or KV already. What runs, runs to its end."""
    worker = await stage.worker()
    router = stage.router(worker)
    router.add("running", 20, 100)
    await router.hears(StepOutputs)
    worker.runtime.drain(60.0)
    router.add("new", 20)
    router.add("continued", 20, emitted=[1, 2])
    router.add("handed over", 20, kind=DECODE, handle=HANDLE)
    refused = await router.hears(Refused, 3)
    assert {(message.leg, message.busy) for message in refused} == {("new", False), ("continued", False), ("handed over", False)}
    await assert_eventually(worker.is_free, what="the running one is done")
    assert len(router.all(StepOutputs)) == 100
    assert not router.all(MoveLegs)


async def test_what_is_not_done_in_time_is_to_be_moved(stage: Stage[Asker]) -> None:
    """Routers are asked at the deadline, and every second for what is still there; legs run on until they are aborted."""
    worker = await stage.worker(max_model_len=4096)
    router = stage.router(worker)
    for name in ("a", "b", "c"):
        router.add(name, 20, 4000)
    await assert_eventually(lambda: worker.engine.stats.running == 3, what="all run")
    asked_at_s = time.monotonic()
    worker.runtime.drain(0.5)
    [first] = await router.hears(MoveLegs)
    assert 0.5 <= time.monotonic() - asked_at_s < 1.0
    assert (set(first.legs), first.epoch) == ({"a", "b", "c"}, EPOCH)
    told = len(router.all(StepOutputs))
    await assert_eventually(lambda: len(router.all(StepOutputs)) > told, what="they run on")
    router.abort("a", "b")
    _, second = await router.hears(MoveLegs, 2)
    assert second.legs == ["c"]
    moved_at_s = [at_s for at_s, message in router.heard if isinstance(message, MoveLegs)]
    assert 0.9 < moved_at_s[1] - moved_at_s[0] < 1.5
    router.abort("c")
    await assert_eventually(worker.is_free, what="nothing is left")


async def test_a_drain_can_be_hastened_and_not_put_off(stage: Stage[Asker]) -> None:
    """The earliest deadline counts."""
    worker = await stage.worker()
    router = stage.router(worker)
    router.add("a", 20, 4000)
    await router.hears(StepOutputs)
    worker.runtime.drain(60.0)
    worker.runtime.drain(0.0)
    worker.runtime.drain(60.0)
    await router.hears(MoveLegs)


async def test_kept_kv_is_waited_for(stage: Stage[Asker]) -> None:
    """A drained worker has no leases: its KV may be on its way to somebody."""
    worker = await stage.worker()
    router = stage.router(worker)
    router.add("p", 40, kind=PREFILL)
    await assert_eventually(lambda: worker.leases.blocks == 3, what="its KV is kept")
    worker.runtime.drain(0.0)
    await asyncio.sleep(0.2)
    assert not worker.runtime.idle
    assert not router.all(MoveLegs)
    router.abort("p")  # as a router does whose decode has read it, or will not
    await assert_eventually(lambda: worker.runtime.idle, what="it has ended")


# -- an engine that hangs ----------------------------------------------------------------------------------------------------

HASTY = PoolConfig(headroom_tokens=0, stall_timeout_s=0.6)


async def test_a_hung_engine_fails(stage: Stage[Asker]) -> None:
    """It has a leg, ends no step and answers no call: its routers are told, and the worker ends."""
    worker = await stage.worker(HASTY)
    router = stage.router(worker)
    router.add("a", 20, 400)
    await router.hears(StepOutputs)
    began_s = time.monotonic()
    worker.gate.shut()
    [failed] = await router.hears(Failed)
    assert 0.5 < time.monotonic() - began_s < 2.0
    assert (failed.legs, failed.reason) == (["a"], "no step for 0.6 s")
    assert await worker.running == "no step for 0.6 s"


async def test_an_engine_with_nothing_but_kept_kv_does_not_hang(stage: Stage[Asker]) -> None:
    """No step ends, since there is none."""
    worker = await stage.worker(HASTY)
    router = stage.router(worker)
    router.add("p", 40, kind=PREFILL)
    await assert_eventually(lambda: worker.leases.blocks == 3, what="its KV is kept")
    await asyncio.sleep(1.5)
    assert not router.all(Failed)
    router.abort("p")
    await assert_eventually(worker.is_free, what="it is free")


async def test_an_engine_that_answers_does_not_hang(stage: Stage[Asker]) -> None:
    """A very long prompt takes many steps of which nothing is told; a call is answered between two of them."""
    worker = await stage.worker(HASTY, timing=ConstantTime(2.0))
    router = stage.router(worker)
    router.add("a", 20, 1)
    await router.hears(StepOutputs)
    assert not router.all(Failed)


# -- a router that is gone ---------------------------------------------------------------------------------------------------

ELSEWHERE = """\
import sys, time, zmq, zmq.asyncio, asyncio, msgspec
from cluster.channel import ChannelKeys, RouterEnd
from cluster.messages import Hello
from core.ids import RouterId
async def main(address, public, keys):
    end = RouterEnd(zmq.asyncio.Context(), RouterId("elsewhere"), address, public, keys, 1.5)
    end.send(Hello())
    for _ in range(3):
        frames = sys.stdin.readline().split()
        end._socket.send_multipart([bytes.fromhex(frame) if frame != "-" else b"" for frame in frames])
    while True:
        await end.receive()
        print("heard", flush=True)
asyncio.run(main(sys.argv[1], sys.argv[2], msgspec.json.decode(sys.argv[3], type=ChannelKeys)))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_a_routers_legs_end_soon_after_it(stage: Stage[Asker], how: signal.Signals) -> None:
    """Running ones, waiting ones and kept KV, with the default heartbeats: two seconds, dead or silent."""
    worker = await stage.worker(silence_s=1.5, pulse_s=0.4)
    keys = msgspec.json.encode(stage.keys).decode()
    command = [sys.executable, "-c", ELSEWHERE, worker.card.address, worker.card.public_key, keys]
    process = await asyncio.to_thread(subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stdin is not None
        for name, kind in (("a", WHOLE), ("b", WHOLE), ("p", PREFILL)):
            add = AddLeg(LegId(name), EPOCH, kind, 40)
            frames = [msgspec.msgpack.encode(add), *RequestCodec().encode(ask(name, prompt_of(40, 1), 4000))]
            process.stdin.write(" ".join(bytes(frame).hex() or "-" for frame in frames) + "\n")
            process.stdin.flush()
        await assert_eventually(lambda: worker.engine.stats.running == 2 and worker.leases.blocks == 3, 10.0, "it has what it asked for")
        process.send_signal(how)
        began_s = time.monotonic()
        await assert_eventually(worker.is_free, 10.0, "all of it is free")
        assert time.monotonic() - began_s < 2.0
    finally:
        process.kill()
        process.wait()
