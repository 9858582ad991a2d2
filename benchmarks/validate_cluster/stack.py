"""The deployment itself: real vLLM on this CPU under Ray, asked over HTTP, and what its router tells of each request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from benchmarks.peers.drive import drive
from benchmarks.servers import ROOT, baton
from benchmarks.validate_cluster.fitting import Reading, Seen
from deploy.demo_model import VOCAB_SIZE
from simulation.record import Record
from simulation.traces import Trace

MAX_MODEL_LEN = 4096
MAX_NUM_SEQS = 64
STEP_TOKENS = 2048
_START_S = 600.0
"""Four engines on two cores take a minute to start, and several where something else runs."""
_NEWEST = 200
"""Timelines that the router tells of at most."""


class Stack:
    """A running deployment. ``num_blocks`` is of its smallest worker."""

    def __init__(self, url: str, workers: int) -> None:
        self._url = url
        deadline_s = time.monotonic() + _START_S
        while len(ready := self._ready()) < workers:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{len(ready)} workers are ready, and there should be {workers}")
            time.sleep(0.5)
        self.num_blocks = min(worker["num_blocks"] for worker in ready)

    def ask(self, trace: Trace) -> list[Reading]:
        """Every request at its time; in order of arrival. Raises RuntimeError when one failed."""
        records = asyncio.run(drive(self._url, "demo", trace, slowdown=1.0, vocab_size=VOCAB_SIZE))
        if failed := [record for record in records if not record.is_complete]:
            raise RuntimeError(f"{len(failed)} of {len(records)} requests were not served: {failed[0].failure}")
        return [reading(record) for record in records]

    def seen(self, trace: Trace) -> list[Seen]:
        """The same, and what the router saw of it, in order of arrival; those handed over that it tells all of."""
        self.ask(trace)
        told = self._get(f"/requests?limit={min(_NEWEST, len(trace.requests))}")["timelines"]
        whole = [timeline for timeline in told if timeline["was_transferred"] and timeline["finished_s"] is not None]
        return sorted((msgspec.convert(timeline, Seen) for timeline in whole), key=lambda seen: seen.arrived_at)

    def _ready(self) -> list[dict[str, Any]]:
        return [worker for worker in self._get("/workers")["workers"] if worker["state"] == "ready"]

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._url}/v1/baton{path}", timeout=30) as response:
            told: dict[str, Any] = json.load(response)
        return told


@contextlib.contextmanager
def running(prefill: int, decode: int) -> Iterator[Stack]:
    """``baton up`` with the demo's configuration and so many workers; ended on the way out."""
    args = yaml.safe_load((ROOT / "deploy/config/cpu-demo.yaml").read_text())["applications"][0]["args"]
    limits = {"max_model_len": MAX_MODEL_LEN, "max_num_seqs": MAX_NUM_SEQS, "max_num_batched_tokens": STEP_TOKENS}
    changes = {
        "engine": {**args["engine"], "args": {**args["engine"]["args"], **limits}},
        "prefill": {"count": prefill, "num_cpus": 0.25},
        "decode": {"count": decode, "num_cpus": 0.25},
    }
    with baton(changes, _START_S) as url:
        yield Stack(url, prefill + decode)


def reading(record: Record) -> Reading:
    """Of an answer of at least two tokens."""
    assert record.ttft_s is not None
    assert record.tpot_s is not None
    return Reading(record.ttft_s, record.tpot_s)
