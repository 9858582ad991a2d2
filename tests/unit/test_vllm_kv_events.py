"""vLLM's KV events: what vLLM's own structs say is what is read, and which blocks tokens, adapter and salt name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from vllm.distributed import kv_events as vllm

from engine.sim_blocks import BlockEvent, BlockHash, BlocksCleared, BlocksRemoved, BlocksStored
from engine.sim_messages import encode_events
from engine.vllm_kv_events import AllBlocksCleared, BlockRemoved, BlockStored, decode_kv_events, is_local, plain_beginning


def stored(hashes: list[Any], parent: Any = None, extra_keys: Any = None, **more: Any) -> BlockStored:
    return BlockStored(hashes, parent, [1, 2] * len(hashes), 2, "GPU", extra_keys=extra_keys, **more)


def test_vllms_own_events_are_read() -> None:
    """Every field that is used, hashes as integers and as bytes; what vLLM adds to an event does not matter."""
    theirs: list[Any] = [
        vllm.BlockStored(
            *([7, b"x"], 2**64 - 1, [1, 2, 3, 4], 2, None, "GPU", "adapter", [("adapter", ("image", 1), "salt"), None]),
            group_idx=0,
            session_id="s",
        ),
        vllm.BlockStored([1], None, [1, 2], 2, None, None, None),
        vllm.BlockRemoved([7], "CPU", 1, "REMOTE"),
        vllm.AllBlocksCleared(),
    ]
    payload = msgspec.msgpack.encode(vllm.KVEventBatch(ts=1.0, events=theirs, data_parallel_rank=0))
    assert decode_kv_events(payload) == [
        BlockStored([7, b"x"], 2**64 - 1, [1, 2, 3, 4], 2, "GPU", "adapter", [["adapter", ["image", 1], "salt"], None], 0),
        BlockStored([1], None, [1, 2], 2),
        BlockRemoved([7], "CPU", 1, "REMOTE"),
        AllBlocksCleared(),
    ]


def test_the_simulated_engines_events_are_read() -> None:
    """It speaks as vLLM does."""
    events: list[BlockEvent] = [
        BlocksStored([BlockHash(1), BlockHash(2)], None, [5, 6, 7, 8], "s"),
        BlocksRemoved([BlockHash(1)]),
        BlocksCleared(),
    ]
    first, *rest = decode_kv_events(encode_events(events, 0.0, 2))
    assert isinstance(first, BlockStored)
    assert (first.block_hashes, first.token_ids, plain_beginning(first)) == ([1, 2], [5, 6, 7, 8], (2, "s"))
    assert rest == [BlockRemoved([1], "GPU", 0), AllBlocksCleared()]


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", msgspec.msgpack.encode([1.0, [{"type": "BlockMoved"}]])], ids=["none", "junk", "new kind"]
)
def test_anything_else_is_an_error(payload: bytes) -> None:
    """An event that is not understood is one that was missed."""
    with pytest.raises(msgspec.DecodeError):
        decode_kv_events(payload)


PLAIN: dict[str, tuple[BlockStored, tuple[int, str | None]]] = {
    "nothing else": (stored([1, 2]), (2, None)),
    "nothing else, said so": (stored([1, 2], extra_keys=[None, None]), (2, None)),
    "a salt": (stored([1, 2], extra_keys=[["salt"], None]), (2, "salt")),
    "an adapter": (stored([1, 2], lora_name="a", extra_keys=[["a"], ["a"]]), (2, None)),
    "an adapter and a salt": (stored([1, 2], lora_name="a", extra_keys=[["a", "salt"], ["a"]]), (2, "salt")),
    "a salt like the adapter": (stored([1, 2], lora_name="a", extra_keys=[["a", "a"], ["a"]]), (2, "a")),
    "an image in the first": (stored([1, 2], extra_keys=[[["id", 0]], [["id", -2]]]), (0, None)),
    "an image in the second": (stored([1, 2], extra_keys=[["salt"], [["id", 1]]]), (1, "salt")),
    "an image and a salt": (stored([1, 2], extra_keys=[[["id", 0], "salt"], None]), (0, None)),
    "embeddings": (stored([1], extra_keys=[[b"digest"]]), (0, None)),
    "behind others": (stored([3, 4], parent=2, extra_keys=[None, None]), (2, None)),
    "a text behind others": (stored([3, 4], parent=2, extra_keys=[["what?"], None]), (0, None)),
}


@pytest.mark.parametrize(("event", "plain"), PLAIN.values(), ids=PLAIN.keys())
def test_plain_beginning(event: BlockStored, plain: tuple[int, str | None]) -> None:
    """Blocks up to the first that something else is part of, and the salt."""
    assert plain_beginning(event) == plain


@pytest.mark.parametrize(
    ("event", "local"),
    [
        (BlockRemoved([1]), True),
        (BlockRemoved([1], "GPU", 0, "LOCAL"), True),
        (BlockRemoved([1], "CPU"), False),
        (BlockRemoved([1], "GPU", 0, "REMOTE"), False),
        (BlockRemoved([1], "GPU", 1), False),
    ],
)
def test_only_the_engines_own_memory_counts(event: BlockRemoved, local: bool) -> None:
    """Other copies have to be fetched first, and other kinds of layers have the same prompts."""
    assert is_local(event) is local
