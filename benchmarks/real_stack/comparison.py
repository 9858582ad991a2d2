"""What is compared: one cluster, one trace at some rates, as a specification for the virtual clock and as a configuration for Ray."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.goodput import setups
from core.worker import Role
from deploy.demo_model import VOCAB_SIZE
from engine.performance.registry import kv_bytes_per_token, step_model_by_name
from engine.sim_config import SimulatedEngineConfig
from router.balancer.base import Policy, Predictions
from router.balancer.registry import make_policy
from router.queue import QueueLimits
from router.service import WantedService
from simulation.cluster import ClusterSpec, Pool
from simulation.goodput import Objective
from simulation.kv_network import Port
from simulation.traces import Trace, TraceRequest

_PULSE_S = 0.3
"""``Beats.pulse_s``, and ``RouterConfig.heartbeat_s`` unless it is set."""
_STEP_TOKENS = 2048
"""Of both pools: the options of simulated engines are for all of them."""
_PARTS_APART = 10_000_000
"""Between the numbers of blocks of two parts: what one left in the caches is of no use to the next."""


class Comparison(msgspec.Struct, frozen=True):
    """All that both sides depend on, beside the policy. ``slowdown`` is the real side's only."""

    trace: str
    rates: Sequence[float]
    requests: int
    """Of each part: the trace's first so many that are not too long."""
    warm_up: int
    """Requests of a part before the others that is not counted, at the first rate: real workers learn their step times in it."""
    objective: Objective
    slowdown: float
    longest_tokens: int = 16_000
    """Prompts beyond are left out: a large body costs this machine what no GPU would wait for."""
    prefill: int = 4
    decode: int = 4
    routers: int = 2

    @property
    def parts(self) -> list[Trace]:
        """The warm-up, then the same requests at every rate."""
        whole = setups.trace(self.trace)
        fit = [request for request in whole.requests if request.prompt_tokens <= self.longest_tokens]
        counted = replace(whole, requests=fit[: self.requests])
        others = replace(whole, requests=_from_zero(fit[self.requests : self.requests + self.warm_up]))
        parts = [others.at_rate(self.rates[0]), *(counted.at_rate(rate) for rate in self.rates)]
        return [_renamed(part, number * _PARTS_APART) for number, part in enumerate(parts)]

    def spec(self, policy: str) -> ClusterSpec:
        """For the virtual clock. As for real, every policy has predictions to refuse by, and answers are as long as clients allow."""
        return ClusterSpec(
            pools=[Pool(Role.PREFILL, self.prefill, _engine(1)), Pool(Role.DECODE, self.decode, _engine(1))],
            step=step_model_by_name(setups.MODEL),
            policy=partial(_policy, policy),
            service=WantedService(ttft_s=self.objective.ttft_s, tpot_s=self.objective.tpot_s),
            max_tokens=1,
            routers=self.routers,
            queue=QueueLimits(_QUEUE.max_requests * self.routers, _QUEUE.max_tokens * self.routers),
        )

    def stack(self, policy: str, model: Path) -> dict[str, Any]:
        """For Ray: ``args`` of the demo's configuration that are others. Only what is between processes is in the wall's seconds."""
        engine = _engine(self.slowdown)
        timing = {"type": "polynomial", **msgspec.structs.asdict(step_model_by_name(setups.MODEL))}
        port = Port()
        simulated = {
            **{key: value for key, value in msgspec.structs.asdict(engine).items() if value != getattr(_DEFAULT, key)},
            "timing": timing,
            "vocab_size": VOCAB_SIZE,
            "special_token_ids": list(range(16)),
            "link_gbps": port.gbps,
            "link_latency_s": port.latency_s,
        }
        pool = {"num_cpus": 0.05, "silence_timeout_s": 600.0, "stall_timeout_s": 600.0}
        pulse_s = _PULSE_S * self.slowdown
        return {
            "model": str(model),
            "served_model_name": "demo",
            "engine": {
                "kind": "simulated",
                "args": {"max_model_len": engine.max_model_len, "enforce_eager": True, "dtype": "float32"},
                "simulated": simulated,
            },
            "prefill": {"count": self.prefill, **pool},
            "decode": {"count": self.decode, **pool},
            "kv_transfer": {"backend": "simulated", "lease_s": engine.lease_s},
            "router": {
                "replicas": self.routers,
                "num_cpus": 0.1,
                "policy": policy,
                "heartbeat_s": pulse_s,
                "worker_timeout_s": 10 * pulse_s,
            },
            "objectives": {"ttft_s": self.objective.ttft_s, "tpot_s": self.objective.tpot_s},
        }


_DEFAULT = SimulatedEngineConfig()
_QUEUE = QueueLimits()
"""Each real router's."""


def _engine(slowdown: float) -> SimulatedEngineConfig:
    return SimulatedEngineConfig(
        block_size_tokens=setups.BLOCK_TOKENS,
        num_blocks=setups.KV_TOKENS // setups.BLOCK_TOKENS,
        max_model_len=131_072,
        max_num_seqs=256,
        max_num_batched_tokens=_STEP_TOKENS,
        kv_bytes_per_token=kv_bytes_per_token(setups.MODEL),
        slowdown=slowdown,
    )


def _policy(name: str, rng: random.Random, predictions: Predictions) -> Policy:
    return make_policy(name, rng, predictions)


def _from_zero(requests: Sequence[TraceRequest]) -> list[TraceRequest]:
    return [replace(request, arrival_s=request.arrival_s - requests[0].arrival_s) for request in requests]


def _renamed(trace: Trace, by: int) -> Trace:
    """With blocks no other part has. Where nothing is known of prefixes, nobody else has them at all: clients make prompts of these."""
    requests: list[TraceRequest] = []
    unknown = by
    for request in trace.requests:
        blocks = tuple(block + by for block in request.block_hashes)
        if not blocks:
            blocks = tuple(range(unknown, unknown + request.prompt_tokens // trace.block_tokens))
            unknown += len(blocks)
        requests.append(replace(request, block_hashes=blocks))
    return replace(trace, requests=requests)
