"""What routers and workers say to each other: every sentence survives the wire, and nothing else is understood."""

from __future__ import annotations

import pickle

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.messages import (
    AbortLegs,
    AddLeg,
    Answer,
    Call,
    Failed,
    FromRouter,
    FromWorker,
    Hello,
    KVChanges,
    KVSnapshot,
    LegKind,
    MoveLegs,
    Pulse,
    Refused,
    StepOutputs,
    WantKV,
    decode_from_router,
    decode_from_worker,
    encode,
    worker_mismatch,
)
from core.handle import KVHandle
from core.ids import Epoch, LegId, RequestId, WorkerId, leg_id
from core.worker import WorkerLoad
from engine.base import Transfer

L = LegId("r:0")
E = Epoch(3)
LOAD = WorkerLoad(1, 2, 30, 40, 5)
HANDLE = KVHandle(WorkerId("p"), E, L, 20, 2, 10.0, {"remote_block_ids": [[1, 2]], "remote_port": 5, "x": None})

FROM_ROUTER: list[FromRouter] = [
    AddLeg(L, E, LegKind.PREFILL, first_token_counts=False),
    AddLeg(L, E, LegKind.DECODE, 22, [5, 2**31], True, HANDLE),
    AddLeg(L, E, LegKind.WHOLE),
    AbortLegs([]),
    AbortLegs([L, LegId("ü:1")]),
    Call(1, "reset_prefix_cache", [True, None, "x", 1.5, [1]]),
    Hello(),
    Hello(2**40),
    WantKV(2),
]
FROM_WORKER: list[FromWorker] = [
    StepOutputs(E, LOAD, {L: HANDLE}, [Transfer(L, 2**40, 0.25)], {L: 0.125}),
    StepOutputs(E, WorkerLoad(), transfers=[]),
    Refused(L, E, "full", busy=True),
    MoveLegs(E, [L], "it drains"),
    Failed(E, [L], "died"),
    Answer(1, ["generate"]),
    Answer(1, error="it cannot"),
    Pulse(E, LOAD, 7),
    KVChanges(E, 1, True, bytes(16), bytes(8)),
    KVSnapshot(E, 2, 1, 0, True, bytes(8)),
]


def kind(message: object) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", FROM_ROUTER, ids=kind)
def test_routers_sentences_arrive(message: FromRouter) -> None:
    """Equal, and not as anything a worker says."""
    assert decode_from_router(encode(message)) == message
    with pytest.raises(msgspec.ValidationError):
        decode_from_worker(encode(message))


@pytest.mark.parametrize("message", FROM_WORKER, ids=kind)
def test_workers_sentences_arrive(message: FromWorker) -> None:
    """Equal, and not as anything a router says."""
    assert decode_from_worker(encode(message)) == message
    with pytest.raises(msgspec.ValidationError):
        decode_from_router(encode(message))


def test_the_lists_are_whole() -> None:
    """Every sentence there is has been sent above."""
    assert {type(message) for message in FROM_ROUTER} == set(FromRouter.__args__)
    assert {type(message) for message in FROM_WORKER} == set(FromWorker.__args__)


@given(st.binary(max_size=200))
@example(pickle.dumps({"type": "hello"}))
@example(msgspec.json.encode(Hello()))
@example(b"")
@example(encode(Refused(L, E, "full")).replace(b"r:0", b"\x80:0"))  # not UTF-8
def test_random_bytes_are_refused(frame: bytes) -> None:
    """By the one error a reader expects, whatever they are."""
    for decode in (decode_from_router, decode_from_worker):
        try:
            message = decode(frame)
        except msgspec.DecodeError:
            continue
        assert encode(message)  # so short a frame may be a sentence by chance; then it is one


@given(st.sampled_from([encode(message) for message in [*FROM_ROUTER, *FROM_WORKER]]), st.data())
def test_cut_or_changed_frames_raise_nothing_else(frame: bytes, data: st.DataObject) -> None:
    """A broken message is a DecodeError or a valid message, never another exception."""
    at = data.draw(st.integers(0, len(frame) - 1))
    broken = data.draw(st.sampled_from([frame[:at], frame[:at] + bytes([data.draw(st.integers(0, 255))]) + frame[at + 1 :]]))
    for decode in (decode_from_router, decode_from_worker):
        try:
            decode(broken)
        except msgspec.DecodeError:
            pass


def test_fields_of_a_later_version_are_skipped() -> None:
    """A worker of the next release may say more than this one knows."""
    assert decode_from_worker(msgspec.msgpack.encode({"type": "refused", "leg": L, "epoch": 3, "reason": "full", "since": 1})) == Refused(
        L, E, "full"
    )


def test_a_leg_is_for_one_life() -> None:
    """Of one worker; the reason names both."""
    assert worker_mismatch(E, E, WorkerId("w")) is None
    assert worker_mismatch(Epoch(2), E, WorkerId("w")) == "w is in epoch 3, not 2"


def test_leg_ids_are_numbered() -> None:
    """So that no leg of a request has another's name."""
    assert [leg_id(RequestId("r"), number) for number in range(3)] == ["r:0", "r:1", "r:2"]
