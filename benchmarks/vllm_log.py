"""Reads a request log of a real vLLM engine: what was asked, when tokens came out, and how the engine was configured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.sim_replay import Arrival, Timed
from core.step_model import StepModel
from engine.performance.models import MODEL_SHAPES
from engine.sim_config import SimulatedEngineConfig

_BLOCK_TOKENS = 16
"""vLLM's block on GPUs, and that of the workload's hashes."""
_WEIGHT_BYTES = 2 * 8.03e9
"""Llama-3.1-8B in 16 bits. What activations need is not in the configuration and is left out: blocks are never short in this log."""
_MAX_MODEL_LEN = 131_072
"""The model's own; the configuration leaves it to the model."""
_MODEL = "llama-3.1-8b"


class VllmLog(msgspec.Struct, frozen=True):
    """One run: its requests as they arrived, what became of each, in the same order, and what the configuration says."""

    arrivals: list[Arrival]
    timed: list[Timed]
    config: SimulatedEngineConfig
    floor: StepModel
    """What no step can be faster than: reading the weights once, and the KV of its context, at the memory's bandwidth."""


def read_log(path: Path) -> VllmLog:
    """Reads ``config.json``, ``meta.json``, ``requests.jsonl`` and ``workload.jsonl``. Nothing is inferred from the times."""
    records = _lines(path / "requests.jsonl")
    workload = _lines(path / "workload.jsonl")
    # The client's clock and the engine's differ by a constant, and a request needs some time from one to the other: the shortest seen.
    offset = min(record["queued_ts"] - record["arrival_time"] for record in records)
    zero = records[0]["arrival_time"] + offset
    arrivals = []
    timed = []
    for record, asked in zip(records, workload, strict=True):
        arrival = record["arrival_time"] + offset - zero
        arrivals.append(Arrival(arrival, _token_ids(asked["hash_ids"], record["input_toks"]), record["output_toks"]))
        timed.append(Timed(arrival, record["first_token_ts"] - zero, record["last_token_ts"] - zero, record["output_toks"]))
    return VllmLog(arrivals, timed, *_configuration(path))


def _configuration(path: Path) -> tuple[SimulatedEngineConfig, StepModel]:
    engine = json.loads((path / "meta.json").read_text())["engine_kwargs"]
    memory = json.loads((path / "config.json").read_text())["nodes"][0]["instances"][0]["npu_mem"]
    kv_bytes = MODEL_SHAPES[_MODEL].kv_bytes_per_token
    config = SimulatedEngineConfig(
        block_size_tokens=_BLOCK_TOKENS,
        num_blocks=int((memory["mem_size"] * 1e9 * memory["mem_util"] - _WEIGHT_BYTES) / (kv_bytes * _BLOCK_TOKENS)),
        max_model_len=_MAX_MODEL_LEN,
        max_num_seqs=engine["max_num_seqs"],
        max_num_batched_tokens=engine["max_num_batched_tokens"],
        kv_bytes_per_token=kv_bytes,
        kv_events=False,
    )
    bytes_per_s = memory["mem_bw"] * 1e9
    weights_s = _WEIGHT_BYTES / bytes_per_s
    return config, StepModel(prefill_base_s=weights_s, decode_base_s=weights_s, decode_context_s=kv_bytes / bytes_per_s)


def _token_ids(hash_ids: list[int], tokens: int) -> list[int]:
    """Tokens that are the same where, and only where, the blocks' hashes are."""
    return [block * _BLOCK_TOKENS + index for block in hash_ids for index in range(_BLOCK_TOKENS)][:tokens]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
