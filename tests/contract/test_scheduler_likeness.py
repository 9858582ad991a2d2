"""The simulated scheduler beside vLLM's own: the same requests, the same steps, block for block."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.config import CacheConfig, DeviceConfig, KVEventsConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.distributed.kv_events import BlockRemoved, BlockStored
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from core.ids import LegId
from engine.sim_blocks import BlocksRemoved, BlocksStored
from engine.sim_config import SimulatedEngineConfig
from engine.sim_request import RemotePrompt, SimRequest
from engine.sim_scheduler import SimScheduler

Limits = Callable[..., tuple[SimScheduler, "Scheduler", "RemoteKeeper"]]
"""Makes a pair of schedulers with equal limits."""

BLOCK = 4
LONGEST = 160
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": LONGEST,
    "torch_dtype": "float32",
}


class RemoteKeeper:
    """A connector that has every remote prompt, and delivers when the test says so."""

    supports_divergent_local_hybrid_hits = False
    requires_kv_delivery = False

    def __init__(self) -> None:
        self.offered: dict[str, int] = {}

    def get_num_new_matched_tokens(self, request: Request, computed: int) -> tuple[int, bool]:
        more = self.offered.get(request.request_id, 0) - computed
        return (more, True) if more > 0 else (0, False)

    def update_state_after_alloc(self, request: Request, blocks: Any, external: int) -> None:
        self.offered.pop(request.request_id, None)  # a preempted request computes what it has pulled before

    def request_finished(self, request: Request, blocks: Any) -> tuple[bool, None]:
        return False, None

    def get_loaded_kv_cache_group_ids(self, request: Request) -> tuple[int, ...]:
        return ()

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's configuration, which is all of it that a scheduler reads."""
    directory = tmp_path_factory.mktemp("model")
    (directory / "config.json").write_text(json.dumps(MODEL))
    return directory


@pytest.fixture
def pair(model: Path) -> Limits:
    init_none_hash(get_hash_fn_by_name("sha256"))

    def make(*, num_blocks: int, max_num_seqs: int, budget: int, **more: Any) -> tuple[SimScheduler, Scheduler, RemoteKeeper]:
        # vLLM wants a budget of at least as many tokens as sequences. What is tested is the scheduler behind that check.
        limits = SchedulerConfig(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max(budget, max_num_seqs),
            max_num_scheduled_tokens=budget,
            max_model_len=LONGEST,
            is_encoder_decoder=False,
            async_scheduling=False,
            policy=more.get("policy", "fcfs"),
            watermark=more.get("watermark", 0.0),
            scheduler_reserve_full_isl=more.get("reserve_full_prompt", True),
            long_prefill_token_threshold=more.get("long_prefill_threshold_tokens", 0),
            long_prefill_token_threshold_adaptive=more.get("long_prefill_adaptive", False),
        )
        cache = CacheConfig(block_size=BLOCK, enable_prefix_caching=True)
        cache.num_gpu_blocks = num_blocks + 1
        config = VllmConfig(
            model_config=ModelConfig(model=str(model), skip_tokenizer_init=True, dtype="float32", max_model_len=LONGEST),
            scheduler_config=limits,
            cache_config=cache,
            device_config=DeviceConfig("cpu"),
            kv_events_config=KVEventsConfig(enable_kv_cache_events=True, publisher="null"),
        )
        layer = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        blocks = KVCacheConfig(num_blocks=num_blocks + 1, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], layer)])
        theirs = Scheduler(config, blocks, StructuredOutputManager(config), block_size=BLOCK)
        keeper = RemoteKeeper()
        theirs.connector = keeper
        ours = SimScheduler(
            SimulatedEngineConfig(
                block_size_tokens=BLOCK,
                num_blocks=num_blocks,
                max_model_len=LONGEST,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=budget,
                vocab_size=1000,
                **more,
            )
        )
        return ours, theirs, keeper

    return make


class SideBySide:
    """Both schedulers, told the same; every step is compared."""

    def __init__(self, ours: SimScheduler, theirs: Scheduler, keeper: RemoteKeeper) -> None:
        self.ours, self.theirs, self.keeper = ours, theirs, keeper
        self.steps = self.preemptions = self.hits = self.removals = 0
        self.pulling: list[LegId] = []
        self.live: list[LegId] = []
        self._arrived: set[str] = set()
        self._hasher = get_request_block_hasher(BLOCK, get_hash_fn_by_name("sha256"))
        self._content: dict[Any, tuple[int, ...]] = {}
        """Of every hash, ours and theirs: the tokens of the block, after its parent's."""

    def add(self, leg: LegId, prompt: list[int], output: int, priority: int, remote_tokens: int) -> None:
        remote = RemotePrompt("far", leg, "", 0, remote_tokens) if remote_tokens else None
        self.ours.add(SimRequest(leg, prompt, output, remote=remote, priority=priority, arrival_s=float(self.steps)), self.steps)
        sampling = SamplingParams(max_tokens=output, ignore_eos=True)
        if remote_tokens:
            self.keeper.offered[leg] = remote_tokens
        self.theirs.add_request(
            Request(leg, prompt, sampling, None, arrival_time=float(self.steps), priority=priority, block_hasher=self._hasher)
        )
        self.live.append(leg)

    def abort(self, leg: LegId) -> None:
        self.ours.abort(leg)
        # Theirs keeps the blocks of a pull under way until the bytes have come; nothing else is told to do without.
        self.theirs.finish_requests(leg, RequestStatus.FINISHED_ABORTED)
        self.live.remove(leg)

    def pulled(self, leg: LegId) -> None:
        self.ours.pulled(leg, self.steps)
        self.pulling.remove(leg)
        self._arrived.add(leg)

    def step(self) -> None:
        """One step of both. What arrived is told to theirs with the output of the step before, as its workers do."""
        if self._arrived:
            self.theirs._update_from_kv_xfer_finished(KVConnectorOutput(finished_recving=self._arrived))
            self._arrived = set()
        preempted_before = {leg: request.num_preemptions for leg, request in self.theirs.requests.items()}
        planned = self.ours.schedule(self.steps)
        output = self.theirs.schedule()
        while planned.chunks and not output.num_scheduled_tokens:
            output = self.theirs.schedule()  # whoever had a turn was preempted: theirs makes an empty step, ours goes on at once
        where = f"step {self.steps}"
        scheduled = {chunk.sequence.request.leg: chunk.tokens for chunk in planned.chunks}
        assert scheduled == output.num_scheduled_tokens, where
        self.pulling += [pull.leg for pull in planned.pulls]
        fetching = [leg for leg, request in self.theirs.requests.items() if request.status == RequestStatus.WAITING_FOR_REMOTE_KVS]
        assert sorted(self.pulling) == sorted(set(fetching) - self.theirs.finished_recving_kv_req_ids), where
        self.preemptions += sum(
            self.theirs.requests[leg].num_preemptions > before for leg, before in preempted_before.items() if leg in self.theirs.requests
        )
        assert self.ours.stats.free_blocks == self.theirs.kv_cache_manager.block_pool.get_num_free_blocks(), where
        assert [one.request.leg for one in self.ours._running] == [request.request_id for request in self.theirs.running], where
        theirs_told = list(self.theirs.kv_cache_manager.block_pool.kv_event_queue)
        result = self.ours.finish(planned, self.steps)
        assert self._told(result.block_events) == self._told(theirs_told), where
        sampled = {emitted.leg: emitted.token for emitted in result.emitted}
        self.hits += sum(emitted.counts.local > 0 for emitted in result.emitted if emitted.counts is not None)
        legs = list(output.num_scheduled_tokens)
        tokens = [[token] if (token := sampled.get(LegId(leg))) is not None else [] for leg in legs]
        runner = ModelRunnerOutput(req_ids=legs, req_id_to_index={leg: index for index, leg in enumerate(legs)}, sampled_token_ids=tokens)
        if legs:
            self.theirs.update_from_output(output, runner)
        else:
            self.theirs.kv_cache_manager.take_events()
        ended = {emitted.leg for emitted in result.emitted if emitted.ended}
        assert ended <= set(self.live)
        self.live = [leg for leg in self.live if leg not in ended]
        assert sorted(self.live) == sorted(self.theirs.requests), where
        self.steps += 1

    def _told(self, events: list[Any]) -> list[Any]:
        """Events by content, one per block, as hashes differ."""
        told: list[Any] = []
        for event in events:
            if isinstance(event, BlocksStored | BlockStored):
                hashes = list(event.hashes if isinstance(event, BlocksStored) else event.block_hashes)
                before = event.parent if isinstance(event, BlocksStored) else event.parent_block_hash
                for index, name in enumerate(hashes):
                    block = tuple(event.token_ids[index * BLOCK : (index + 1) * BLOCK])
                    self._content[name] = (*(self._content[before] if before is not None else ()), *block)
                    told.append(("stored", self._content[name]))
                    before = name
            elif isinstance(event, BlocksRemoved | BlockRemoved):
                removed = event.hashes if isinstance(event, BlocksRemoved) else event.block_hashes
                told += [("removed", self._content[name]) for name in removed]
                self.removals += len(removed)
        return told


LIMITS: dict[str, dict[str, Any]] = {
    "roomy": {"num_blocks": 400, "max_num_seqs": 16, "budget": 64},
    "few blocks": {"num_blocks": 45, "max_num_seqs": 16, "budget": 64},
    "few blocks, small chunks": {"num_blocks": 45, "max_num_seqs": 16, "budget": 7},
    "few sequences": {"num_blocks": 60, "max_num_seqs": 2, "budget": 64},
    "priority": {"num_blocks": 45, "max_num_seqs": 16, "budget": 40, "policy": "priority"},
    "watermark": {"num_blocks": 50, "max_num_seqs": 16, "budget": 40, "watermark": 0.1},
    "first chunk only": {"num_blocks": 45, "max_num_seqs": 16, "budget": 20, "reserve_full_prompt": False},
    "threshold": {"num_blocks": 60, "max_num_seqs": 16, "budget": 40, "long_prefill_threshold_tokens": 6},
    "adaptive threshold": {
        "num_blocks": 60,
        "max_num_seqs": 16,
        "budget": 40,
        "long_prefill_threshold_tokens": 6,
        "long_prefill_adaptive": True,
    },
    "everything": {
        "num_blocks": 50,
        "max_num_seqs": 8,
        "budget": 24,
        "policy": "priority",
        "watermark": 0.05,
        "long_prefill_threshold_tokens": 9,
        "reserve_full_prompt": False,
    },
}


@pytest.mark.parametrize("pulls", [False, True], ids=["local", "pulls"])
@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_every_step_is_as_vllm_plans_it(pair: Limits, limits: dict[str, Any], pulls: bool) -> None:
    """Who gets how many tokens, who is preempted, which blocks are found, stored and evicted, in which order: all equal."""
    seen = [0, 0, 0]
    for seed in range(6):
        chance = random.Random(seed)
        both = SideBySide(*pair(**limits))
        for number in range(30):
            for _ in range(chance.choice([0, 0, 1, 1, 3, 12])):
                both.step()
                if both.pulling and chance.random() < 0.3:
                    both.pulled(chance.choice(both.pulling))
            tokens = chance.randint(1, 90)
            first = chance.choice([0, 0, 300, 600])
            remote = chance.randint(1, tokens) if pulls and chance.random() < 0.4 else 0
            output = chance.choice([1, 5, 30, LONGEST - tokens])
            both.add(LegId(f"{number}"), [(first + place) % 1000 for place in range(tokens)], output, chance.randint(0, 2), remote)
            if both.live and chance.random() < 0.1 and (leg := chance.choice(both.live)) not in both.pulling:
                both.abort(leg)
        for _ in range(4000):
            if not both.live:
                break
            both.step()
            if both.pulling and chance.random() < 0.5:
                both.pulled(chance.choice(both.pulling))
        assert not both.live
        seen = [before + more for before, more in zip(seen, (both.preemptions, both.hits, both.removals), strict=True)]
    if limits["num_blocks"] < 60:
        assert min(seen) > 0  # the rare things have happened
