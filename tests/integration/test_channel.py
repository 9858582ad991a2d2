"""The channel between routers and workers on real sockets: who gets in, what is noticed, what is survived."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio
from vllm.pooling_params import PoolingParams
from vllm.v1.engine import EngineCoreOutput, FinishReason
from zmq.utils.monitor import parse_monitor_message

from cluster.channel import ChannelKeys, RouterEnd, WorkerEnd, gather_quietly
from cluster.messages import (
    AbortLegs,
    AddLeg,
    Answer,
    Call,
    Failed,
    Hello,
    LegKind,
    Pulse,
    Refused,
    StepOutputs,
    WantKV,
    decode_from_worker,
    encode,
)
from core.errors import EngineFailedError, WorkerLostError
from core.ids import Epoch, LegId, RouterId, WorkerId
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState
from engine.vllm_codec import OutputsCodec, RequestCodec
from router.link import WorkerLink
from tests.contract.engine_contract import ask, prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import HOST, SILENCE_S, Directory, MiniCluster, MiniRouter

ROUTERS = ChannelKeys.make()
WORKER = ChannelKeys.make()
STRANGER = ChannelKeys.make()
LIMIT_S = 10.0
FACTS = EngineFacts(16, 64, 1024, 8, 512)


@pytest.fixture
async def worker_end() -> AsyncIterator[WorkerEnd]:
    end = WorkerEnd(HOST, WORKER, ROUTERS.public, SILENCE_S)
    yield end
    end.close()
    this = asyncio.current_task()
    await assert_eventually(lambda: not [task for task in asyncio.all_tasks() if task is not this], what="no task left")


@pytest.fixture
def context() -> Iterator[zmq.asyncio.Context]:
    context = zmq.asyncio.Context()
    yield context
    context.destroy(0)


@contextmanager
def router_end(context: zmq.asyncio.Context, address: str, name: str = "router-0") -> Iterator[RouterEnd]:
    end = RouterEnd(context, RouterId(name), address, WORKER.public, ROUTERS, SILENCE_S)
    try:
        yield end
    finally:
        end.close()


async def refused_by(worker: WorkerEnd, router: str) -> bool:
    return not await worker.send(RouterId(router), Pulse(Epoch(1), WorkerLoad()))


# -- who gets in -------------------------------------------------------------------------------------------------------------

INTRUDERS = {
    "without any key": (None, None),
    "with a key that is not the routers'": (STRANGER, WORKER.public),
    "with the routers' key for another worker": (ROUTERS, STRANGER.public),
}


@pytest.mark.parametrize(("keys", "server_key"), INTRUDERS.values(), ids=INTRUDERS.keys())
async def test_only_routers_get_in(
    worker_end: WorkerEnd, context: zmq.asyncio.Context, keys: ChannelKeys | None, server_key: str | None
) -> None:
    """The handshake fails: nothing the intruder sends is received, and nothing can be sent to it."""
    intruder: zmq.asyncio.Socket = context.socket(zmq.DEALER)
    intruder.setsockopt(zmq.IDENTITY, b"intruder")
    if keys is not None and server_key is not None:
        intruder.curve_publickey, intruder.curve_secretkey = keys.public.encode(), keys.secret.encode()
        intruder.curve_serverkey = server_key.encode()
    failures = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    events = intruder.get_monitor_socket(failures | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    intruder.connect(worker_end.address)
    await intruder.send_multipart([encode(Hello())])
    async with asyncio.timeout(LIMIT_S):
        for _ in range(2):  # it tries again by itself, and fails again
            assert parse_monitor_message(await events.recv_multipart())["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED
    with router_end(context, worker_end.address) as router:
        router.send(Hello())
        async with asyncio.timeout(LIMIT_S):
            sender, frames = await worker_end.receive()
        assert (sender, frames) == ("router-0", [encode(Hello())])  # the first message that got through, though sent last
        assert await refused_by(worker_end, "intruder")
    assert not await intruder.poll(0)
    intruder.disable_monitor()
    events.close(0)
    intruder.close(0)


async def test_messages_pass_both_ways(worker_end: WorkerEnd, context: zmq.asyncio.Context) -> None:
    """In order, with the frames behind them, to the router they are for."""
    with router_end(context, worker_end.address, "one") as one, router_end(context, worker_end.address, "two") as two:
        for router, name in ((one, "one"), (two, "two")):
            for number in range(3):
                router.send(Call(number, name), [b"frame", b""])
        async with asyncio.timeout(LIMIT_S):
            heard = [await worker_end.receive() for _ in range(6)]
        for name in ("one", "two"):
            assert [frames for sender, frames in heard if sender == name] == [[encode(Call(n, name)), b"frame", b""] for n in range(3)]
        assert await worker_end.send(RouterId("two"), Answer(1), [b"x"])
        async with asyncio.timeout(LIMIT_S):
            assert await two.receive() == [encode(Answer(1)), b"x"]


# -- what is noticed ---------------------------------------------------------------------------------------------------------


async def test_a_router_is_told_when_its_worker_is_gone(context: zmq.asyncio.Context) -> None:
    """And before that, when it is let in."""
    worker = WorkerEnd(HOST, WORKER, ROUTERS.public, SILENCE_S)
    with router_end(context, worker.address) as router:
        connections = router.connections()
        async with asyncio.timeout(LIMIT_S):
            assert await anext(connections) is True
            worker.close()
            assert await anext(connections) is False


async def test_a_worker_is_told_when_its_router_is_gone(worker_end: WorkerEnd, context: zmq.asyncio.Context) -> None:
    """Its next message to it is refused, which says so; one that comes back is reached again."""
    for _ in range(2):
        with router_end(context, worker_end.address) as router:
            router.send(Hello())
            async with asyncio.timeout(LIMIT_S):
                await worker_end.receive()
            assert await worker_end.send(RouterId("router-0"), Pulse(Epoch(1), WorkerLoad()))
        await assert_eventually(lambda: refused_by(worker_end, "router-0"), what="its loss is noticed")
    assert await refused_by(worker_end, "never-was")


async def test_a_router_that_comes_back_under_its_name_takes_over(worker_end: WorkerEnd, context: zmq.asyncio.Context) -> None:
    """Also while the worker has not noticed that the old connection is dead."""
    old: zmq.asyncio.Socket = context.socket(zmq.DEALER)
    old.setsockopt(zmq.IDENTITY, b"router-0")
    old.setsockopt(zmq.RECONNECT_IVL, -1)  # a dead router does not fight for its name
    old.curve_publickey, old.curve_secretkey = ROUTERS.public.encode(), ROUTERS.secret.encode()
    old.curve_serverkey = WORKER.public.encode()
    old.connect(worker_end.address)
    await old.send_multipart([encode(Call(1, "old"))])
    async with asyncio.timeout(LIMIT_S):
        assert await worker_end.receive() == ("router-0", [encode(Call(1, "old"))])
        with router_end(context, worker_end.address) as new:
            new.send(Call(2, "new"))
            assert await worker_end.receive() == ("router-0", [encode(Call(2, "new"))])
            assert await worker_end.send(RouterId("router-0"), Answer(2))
            assert await new.receive() == [encode(Answer(2))]
    assert not await old.poll(0)


async def test_a_closed_router_end_leaves_no_file_open(worker_end: WorkerEnd, context: zmq.asyncio.Context) -> None:
    """Workers come and go for months; each takes its sockets with it, the one for connection events included."""

    async def connect_once() -> None:
        with router_end(context, worker_end.address) as router:
            async with asyncio.timeout(LIMIT_S):
                assert await anext(router.connections()) is True

    await connect_once()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        await connect_once()
    await assert_eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + 2, what="files closed")


# -- what a worker survives --------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self._path), 0o700)


@pytest.fixture
async def cluster() -> AsyncIterator[MiniCluster]:
    """One worker of each kind, and no router yet."""
    cluster = MiniCluster()
    try:
        await cluster.start(prefill=1, decode=1, routers=0)
        yield cluster
        await cluster.nothing_left()
    finally:
        await cluster.close()


class Talker:
    """A peer with the routers' keys that says what it likes to one worker."""

    def __init__(self, cluster: MiniCluster, context: zmq.asyncio.Context) -> None:
        card = cluster.workers["prefill-0"].card
        keys = cluster.directory.keys
        self.socket: zmq.asyncio.Socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, b"talker")
        self.socket.curve_publickey, self.socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
        self.socket.curve_serverkey = card.public_key.encode()
        self.socket.connect(card.address)

    async def say(self, *frames: bytes) -> None:
        await self.socket.send_multipart(frames)

    async def answer(self) -> object:
        """The worker's next message but for its pulse."""
        async with asyncio.timeout(LIMIT_S):
            while isinstance(message := decode_from_worker((await self.socket.recv_multipart())[0]), Pulse):
                pass
        return message

    async def is_heard(self) -> bool:
        """Whether the worker still listens."""
        await self.say(encode(Call(99, "is_sleeping")))
        return await self.answer() == Answer(99, value=False)


NOT_OURS = {
    "nothing": [b""],
    "random bytes": [bytes(range(256))],
    "text": [b"GET / HTTP/1.1\r\n\r\n"],
    "another struct": [msgspec.msgpack.encode({"type": "fire", "legs": []})],
    "fields of another type": [msgspec.msgpack.encode({"type": "abort", "legs": 7})],
    "a worker's sentence": [encode(Pulse(Epoch(1), WorkerLoad()))],
    "cut short": [encode(AbortLegs([LegId("a:0")]))[:-3]],
    "a name that is not UTF-8": [encode(AbortLegs([LegId("a:0")])).replace(b"a:0", b"\x80:0")],
    "many frames": [b"x"] * 50,
}


@pytest.mark.parametrize("frames", NOT_OURS.values(), ids=NOT_OURS.keys())
async def test_what_is_not_ours_is_dropped(cluster: MiniCluster, context: zmq.asyncio.Context, frames: list[bytes]) -> None:
    """And the worker hears the next message."""
    talker = Talker(cluster, context)
    await talker.say(*frames)
    assert await talker.is_heard()


async def test_pickles_are_never_opened(cluster: MiniCluster, context: zmq.asyncio.Context, tmp_path: Path) -> None:
    """Neither as a message, nor as an engine request, nor inside one as vLLM's own extension types."""
    talker = Talker(cluster, context)
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    add = encode(AddLeg(LegId("a:0"), Epoch(1), LegKind.WHOLE))
    await talker.say(bomb)
    await talker.say(encode(Hello()), bomb)
    for body in (bomb, *(msgspec.msgpack.encode(["a", msgspec.msgpack.Ext(code, bomb)]) for code in (1, 2, 3))):
        await talker.say(add, body)
        answer = await talker.answer()
        assert isinstance(answer, Failed)
        assert answer.legs == ["a:0"]
    assert await talker.is_heard()
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(FileNotFoundError):
        (tmp_path / "exploded").rmdir()
    pickle.loads(bomb)  # it would have worked
    assert (tmp_path / "exploded").exists()


async def test_a_request_that_cannot_be_read_is_answered(cluster: MiniCluster, context: zmq.asyncio.Context) -> None:
    """Whatever is wrong with it; silence would leave its client waiting for ever."""
    talker = Talker(cluster, context)
    pooling = ask("r", prompt_of(9, 1), 1)
    pooling.sampling_params, pooling.pooling_params = None, PoolingParams()
    bodies: list[list[bytes]] = [[], [b""], [b"\xc1"], [bytes(frame) for frame in RequestCodec().encode(pooling)]]
    for number, body in enumerate(bodies):
        await talker.say(encode(AddLeg(LegId(f"r:{number}"), Epoch(1), LegKind.PREFILL)), *body)
        answer = await talker.answer()
        assert isinstance(answer, Failed)
        assert (answer.legs, answer.epoch) == ([f"r:{number}"], 1)
    assert await talker.is_heard()


async def test_a_leg_for_another_life_is_refused(cluster: MiniCluster, context: zmq.asyncio.Context) -> None:
    """Its handle and its books would be another worker's."""
    talker = Talker(cluster, context)
    await talker.say(
        encode(AddLeg(LegId("a:0"), Epoch(7), LegKind.WHOLE)), *map(bytes, RequestCodec().encode(ask("a", prompt_of(9, 1), 1)))
    )
    assert await talker.answer() == Refused(LegId("a:0"), Epoch(1), "prefill-0 is in epoch 1, not 7")


@pytest.mark.parametrize("method", ["collective_rpc", "shutdown", "save_sharded_state", "__class__", "add_lora", ""])
async def test_few_utilities_can_be_called(cluster: MiniCluster, context: zmq.asyncio.Context, method: str) -> None:
    """Those on the list; the engine is not even asked for others."""
    talker = Talker(cluster, context)
    await talker.say(encode(Call(5, method)))
    assert await talker.answer() == Answer(5, error=f"{method} cannot be called from a router")


async def test_aborting_legs_nobody_knows_changes_nothing(cluster: MiniCluster, context: zmq.asyncio.Context) -> None:
    """Late aborts are normal."""
    talker = Talker(cluster, context)
    await talker.say(encode(AbortLegs([LegId("never:0"), LegId("never:0")])))
    assert await talker.is_heard()


async def test_a_worker_that_can_no_longer_hear_ends(cluster: MiniCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that pulses on but takes no message would be taken for healthy for ever."""
    worker = cluster.workers["decode-0"]

    async def broken() -> tuple[RouterId, list[bytes]]:
        raise OSError("the socket broke")

    worker.running.cancel()
    await asyncio.gather(worker.running, return_exceptions=True)
    monkeypatch.setattr(worker.runtime._end, "receive", broken)
    with pytest.raises(OSError, match="the socket broke"):
        async with asyncio.timeout(LIMIT_S):
            await worker.runtime.run()


# -- a router's link, with a puppet for a worker -------------------------------------------------------------------------------


class Puppet:
    """A worker's end that says what a test wants it to."""

    def __init__(self, directory: Directory, name: str = "puppet") -> None:
        self._keys = ChannelKeys.make()
        self._end = WorkerEnd(HOST, self._keys, directory.keys.public, SILENCE_S)
        self.heard: list[object] = []
        self.card = WorkerCard(WorkerId(name), Epoch(2), Role.PREFILL, WorkerState.READY, self._end.address, self._keys.public, FACTS)
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while True:
            _, frames = await self._end.receive()
            message = msgspec.msgpack.decode(frames[0], type=AddLeg | AbortLegs | Call | Hello | WantKV)
            if isinstance(message, Hello):
                await self.say(Pulse(Epoch(2), WorkerLoad(free_blocks=1, num_blocks=64)))
            elif not isinstance(message, WantKV):
                self.heard.append(message)

    async def say(self, message: StepOutputs | Refused | Failed | Answer | Pulse, *frames: bytes) -> None:
        assert await self._end.send(RouterId("router-0"), message, frames)

    async def close(self) -> None:
        await gather_quietly(self._listening)
        self._end.close()


@pytest.fixture
async def puppet() -> AsyncIterator[tuple[Puppet, MiniRouter]]:
    directory = Directory()
    puppet = Puppet(directory)
    directory.tell([puppet.card])
    router = MiniRouter("router-0", directory, 0)
    await assert_eventually(lambda: "puppet" in router.dispatcher.view(), what="the puppet is up")
    yield puppet, router
    await router.members.close()
    await puppet.close()


def load_seen(router: MiniRouter) -> int:
    return router.dispatcher.view()[WorkerId("puppet")].load.free_blocks


async def heard_and_tried_again(worker: Puppet, router: MiniRouter) -> None:
    """A failure was heard: the request is sent again, to the same worker because there is no other."""
    await assert_eventually(lambda: [m.leg for m in worker.heard if isinstance(m, AddLeg)] == ["a:0", "a:1"], what="it is tried again")
    assert router.timeline("a").losses == 1
    router.cancel("a")


async def test_late_messages_of_an_old_life_are_ignored(puppet: tuple[Puppet, MiniRouter]) -> None:
    """Whatever carries another epoch says nothing about this worker: no load, no failure."""
    worker, router = puppet
    router.send("a", prompt_of(20, 1), 4)
    await assert_eventually(lambda: len(worker.heard) == 1, what="the leg is sent")
    await worker.say(Pulse(Epoch(1), WorkerLoad(free_blocks=40, num_blocks=64)))
    await worker.say(Failed(Epoch(1), [LegId("a:0")], "long ago"))
    await worker.say(Refused(LegId("a:0"), Epoch(1), "long ago"))
    await worker.say(Pulse(Epoch(2), WorkerLoad(free_blocks=20, num_blocks=64)))
    await assert_eventually(lambda: load_seen(router) in (20, 1), what="the present life is heard")
    assert (router.timeline("a").attempts, len(worker.heard)) == (1, 1)
    await worker.say(Failed(Epoch(2), [LegId("a:0")], "now"))
    await heard_and_tried_again(worker, router)


async def test_outputs_nobody_can_read_do_not_end_the_link(puppet: tuple[Puppet, MiniRouter]) -> None:
    """The message is dropped; the next one is heard."""
    worker, router = puppet
    for frames in ([], [b""], [b"\xc1 no msgpack"], [pickle.dumps([1])]):
        await worker.say(StepOutputs(Epoch(2), WorkerLoad()), *frames)
    router.send("a", prompt_of(20, 1), 4)
    await assert_eventually(lambda: len(worker.heard) == 1, what="the leg is sent")
    await worker.say(Failed(Epoch(2), [LegId("a:0")], "asked to"))
    await heard_and_tried_again(worker, router)


async def test_a_call_is_answered_or_ends_with_the_connection(puppet: tuple[Puppet, MiniRouter]) -> None:
    """Nobody waits for a worker that is gone."""
    worker, router = puppet
    link = router.members.link(WorkerId("puppet"))
    assert link is not None
    calls = [asyncio.create_task(link.call("is_sleeping")) for _ in range(3)]
    await assert_eventually(lambda: len(worker.heard) == 3, what="called")
    numbers = [call.number for call in worker.heard if isinstance(call, Call)]
    await worker.say(Answer(numbers[0], value=[1]))
    await worker.say(Answer(numbers[1], error="it cannot"))
    await worker.say(Answer(12345, value="nobody asked"))
    async with asyncio.timeout(LIMIT_S):
        assert await calls[0] == [1]
        with pytest.raises(EngineFailedError, match="it cannot"):
            await calls[1]
        await worker.close()
        with pytest.raises(WorkerLostError, match="the connection broke"):
            await calls[2]
    assert not link.up


class ScriptedEnd:
    """A router's end whose messages and connection events a test feeds by hand, in an order real sockets rarely show."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.events: asyncio.Queue[bool] = asyncio.Queue()
        self.sent: list[object] = []

    async def receive(self) -> list[bytes]:
        return await self.messages.get()

    async def connections(self) -> AsyncIterator[bool]:
        while True:
            yield await self.events.get()

    def send(self, message: object, frames: object = ()) -> None:
        self.sent.append(message)

    def close(self) -> None:
        pass


async def test_what_was_said_before_the_break_does_not_make_a_worker_reachable() -> None:
    """Messages still unread when the connection breaks are read after it; the worker is gone all the same."""
    end, lost, heard = ScriptedEnd(), [], []
    card = WorkerCard(WorkerId("w"), Epoch(1), Role.DECODE, WorkerState.READY, "tcp://nowhere", "", FACTS)
    link = WorkerLink(card, end, 3600.0, lambda link, message, frames: heard.append(message), lambda link, why: lost.append(why))  # type: ignore[arg-type]
    pulse = [encode(Pulse(Epoch(1), WorkerLoad()))]
    end.events.put_nowait(True)
    await assert_eventually(lambda: Hello() in end.sent, what="greeted")
    end.messages.put_nowait(pulse)
    await assert_eventually(lambda: link.up, what="up")
    end.events.put_nowait(False)
    await assert_eventually(lambda: lost == ["the connection broke"], what="told of the loss")
    end.messages.put_nowait(pulse)
    await assert_eventually(lambda: len(heard) == 2, what="the late message is read")
    assert not link.up
    end.events.put_nowait(True)
    end.messages.put_nowait(pulse)
    await assert_eventually(lambda: link.up, what="up again")
    assert lost == ["the connection broke"]
    await link.close()


async def test_a_lost_leg_that_goes_on_is_told_to_stop(puppet: tuple[Puppet, MiniRouter]) -> None:
    """After a short break of the connection the worker still computes what the router has given up, and moved: it must not go on."""
    worker, router = puppet
    router.send("a", prompt_of(20, 1), 4)
    await assert_eventually(lambda: len(worker.heard) == 1, what="the leg is sent")
    second = Puppet(router.directory, "second")
    router.directory.tell([worker.card, second.card])
    await assert_eventually(lambda: "second" in router.dispatcher.view(), what="the second is up")
    router.dispatcher.worker_lost(WorkerId("puppet"), "the connection broke")
    await assert_eventually(lambda: len(second.heard) == 1, what="the request has moved")
    assert router.dispatcher.view()[WorkerId("puppet")].outstanding_prefill_tokens == 0
    outputs = [EngineCoreOutput("a:0", [5], finish_reason=FinishReason.LENGTH)]
    await worker.say(StepOutputs(Epoch(2), WorkerLoad()), *map(bytes, OutputsCodec().encode(outputs)))
    await assert_eventually(lambda: worker.heard[1:] == [AbortLegs([LegId("a:0")])], what="told to stop")
    assert router.outputs.get("a") is None
    assert router.timeline("a").first_token_s is None
    router.cancel("a")
    await assert_eventually(lambda: second.heard[1:] == [AbortLegs([LegId("a:1")])], what="told to stop")
    await second.close()
