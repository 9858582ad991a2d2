"""Which changes of the configuration replace workers."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.spec import differing_keys, spec_hash
from core.config import BatonConfig
from core.worker import Role

P, D = Role.PREFILL, Role.DECODE

TABLE: dict[str, tuple[dict[str, Any], set[Role]]] = {
    "nothing": ({}, set()),
    "routers": ({"router": {"policy": "random", "replicas": 3, "retry": {"max_losses": 9}, "drain_timeout_s": 5}}, set()),
    "names and promises": ({"served_model_name": "x", "objectives": {"ttft_s": 1}}, set()),
    "how many, and how they come and go": (
        {"prefill": {"count": 3, "surge": 1, "drain_timeout_s": 1, "silence_timeout_s": 60, "start_timeout_s": 9}},
        set(),
    ),
    "admission": ({"prefill": {"max_prefill_tokens": 5}, "decode": {"headroom_tokens": 5}}, {P, D}),
    "one pool's engine": ({"decode": {"engine_args": {"max_num_seqs": 5}}}, {D}),
    "every engine": ({"engine": {"args": {"max_num_seqs": 5}}}, {P, D}),
    "what routers expect of links": ({"kv_transfer": {"link_gbps": 100, "link_latency_s": 0.001}}, set()),
    "what is expected of one pool": ({"decode": {"step_times": "x"}}, {D}),
    "adapters": ({"lora": {"adapters": {"poet": {"path": "/poet"}}}}, {P, D}),
    "leases": ({"kv_transfer": {"lease_s": 20}}, {P, D}),
    "heartbeats, which both ends keep": ({"router": {"heartbeat_s": 0.2}}, {P, D}),
}


@pytest.mark.parametrize(("changed", "replaced"), TABLE.values(), ids=TABLE.keys())
def test_workers_are_replaced_for_what_concerns_them(changed: dict[str, Any], replaced: set[Role]) -> None:
    """And for nothing else."""
    before, after = (BatonConfig.model_validate({"model": "m", **config}) for config in ({}, changed))
    assert {role for role in Role if spec_hash(before, role) != spec_hash(after, role)} == replaced


DIFFERING: dict[str, tuple[dict[str, Any], list[str]]] = {
    "equal": ({"prefill": {"count": 3, "drain_timeout_s": 5}}, []),
    "another engine": (
        {"decode": {"num_gpus": 2, "tensor_parallel_size": 2}, "prefill": {"num_gpus": 1}},
        ["tensor_parallel_size", "num_gpus"],
    ),
    "other arguments": ({"prefill": {"engine_args": {"max_num_batched_tokens": 16384}}}, ["engine_args"]),
}


@pytest.mark.parametrize(("config", "keys"), DIFFERING.values(), ids=DIFFERING.keys())
def test_workers_of_equal_pools_can_change_places(config: dict[str, Any], keys: list[str]) -> None:
    """The keys that stand in the way are named; there are some exactly where the pools' specs differ."""
    made = BatonConfig.model_validate({"model": "m", **config})
    assert differing_keys(made) == keys
    assert (spec_hash(made, P) != spec_hash(made, D)) == bool(keys)
