"""The clusters that are broken on purpose."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.support.baton_process import ENGINE
from tests.support.cluster_process import MODEL, Cluster, Home, simulated_args

START_LIMIT_S = 300.0
STOP_LIMIT_S = 120.0
LEASE_S = 10
"""Baton's default: KV that nobody comes for is part of what is looked at."""

TIMING = {"type": "polynomial", "prefill_base_s": 0.01, "prefill_token_s": 0.0002, "decode_base_s": 0.03}
"""A prompt of 800 tokens takes a sixth of a second, so that sixteen of them queue; an answer of a hundred tokens takes three."""


def chaos_args(**router: Any) -> dict[str, Any]:
    """Two prefill and two decode workers with simulated engines, two routers, and every time limit at its default."""
    args = simulated_args(prefill=2, decode=2, routers=2)
    # A pull takes long enough to be hit. Eight requests per worker fit on one when the other is gone, and thirty more fill both.
    args["engine"]["simulated"] |= {"timing": TIMING, "link_latency_s": 0.25, "link_answer_s": 1.0, "max_num_seqs": 16, "num_blocks": 4096}
    args["prefill"]["max_prefill_tokens"] = 1200  # one long prompt at a time: the others wait in the routers' queues
    args["kv_transfer"]["lease_s"] = LEASE_S
    args["router"] |= router
    return args


def real_args() -> dict[str, Any]:
    """The same with vLLM engines on the CPU."""
    return {
        "model": MODEL,
        "host": "127.0.0.1",
        "engine": ENGINE,
        "prefill": {"count": 2, "num_cpus": 0.25},
        "decode": {"count": 2, "num_cpus": 0.25},
        "kv_transfer": {"lease_s": LEASE_S},
        "router": {"replicas": 1, "num_cpus": 0.25, "policy": "least_outstanding_tokens"},
    }


@contextlib.contextmanager
def chaos_up(args: dict[str, Any]) -> Iterator[Cluster]:
    """``baton up``. Whatever was done to it, it ends with status 0 and leaves nothing behind."""
    home = Home()
    try:
        server = home.start("up", home.file(args))
        server.wait_ready(lambda: "serving " in server.output, START_LIMIT_S)
        yield Cluster(home, home.url, args["router"]["replicas"])
        footprint = home.footprint()
        server.interrupt()
        assert server.wait(STOP_LIMIT_S) == 0, server.output
        home.assert_nothing_left(footprint)
    finally:
        home.close()
