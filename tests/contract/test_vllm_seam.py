"""vLLM's internals that Baton stands on, by name and signature.

When one of these fails, vLLM has moved: read what it names, mend the file that the test names, and only then change the table.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import vllm
from vllm.config import KVTransferConfig, VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole, KVConnectorTransferResults, KVConnectorWorkerMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.nixl import base_worker
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlBaseConnector, NixlPullConnector
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlHandshakePayload
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_scheduler import NixlPullConnectorScheduler
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.pull_worker import NixlPullConnectorWorker
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.stats import NixlKVConnectorStats
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.exceptions import GracefulHTTPError
from vllm.sampling_params import SamplingParams
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreEventType, EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.core_client import AsyncMPClient, EngineCoreClient
from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.metrics.stats import PrefillStats, SchedulerStats

from kv_transfer import connector
from kv_transfer.connector_messages import BatonStats, LeasePayload
from kv_transfer.connector_worker import BatonWorker
from kv_transfer.quarantine import BlockNews
from router.cluster_client import ClusterClient
from router.front_half import RouterLLM

LEFT_TO_VLLM = {
    "add_lora_async", "collective_rpc_async", "commit_elastic_ep", "compute_weight_checksums_async", "dp_engines_running",
    "get_kv_event_sources", "get_status", "get_weight_version_async", "handle_fault", "is_scheduler_paused_async", "list_loras_async",
    "pause_scheduler_async", "pin_lora_async", "prepare_elastic_ep", "profile_async", "release_kv_cache_memory_async",
    "remove_lora_async", "resume_scheduler_async", "set_weight_version_async", "sleep_async", "wake_up_async",
}  # fmt: skip
"""What ``AsyncLLM`` also calls, but only for routes and features that Baton does not serve: their base methods raise."""

SAMPLING_PARAMS = {
    "n", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature", "watermarking", "top_p", "top_k", "min_p", "seed",
    "stop", "stop_token_ids", "ignore_eos", "max_tokens", "min_tokens", "logprobs", "prompt_logprobs", "prompt_logprob_token_ids",
    "prompt_logprob_start", "logprob_token_ids", "flat_logprobs", "detokenize", "skip_special_tokens", "spaces_between_special_tokens",
    "include_stop_str_in_output", "output_kind", "stream_interval", "skip_clone", "output_text_buffer_length", "_eos_token_id",
    "_all_stop_token_ids", "_watermarking_skipped", "structured_outputs", "logit_bias", "allowed_token_ids", "extra_args", "bad_words",
    "_bad_words_token_ids", "skip_reading_prefix_cache", "thinking_token_budget", "repetition_detection", "routed_experts_prompt_start",
    "trace_decode_token_ids",
}  # fmt: skip
"""Every parameter there is. A new one has to be judged in router/traits.py and engine/sampling.py: does it look back at the output?"""

OVERRIDDEN = [
    name for name, member in vars(ClusterClient).items() if callable(member) and name != "__init__" and hasattr(EngineCoreClient, name)
]
"""The cluster client's methods that stand in for vLLM's."""


def parameters(function: Any) -> list[str]:
    """Names of a function's parameters, ``self`` and ``cls`` aside."""
    return [name for name in inspect.signature(function).parameters if name not in {"self", "cls"}]


def test_the_version() -> None:
    """The one that everything here was read in; only its patch level may move."""
    assert re.match(r"0\.32\.\d+", vllm.__version__)


def test_async_llm_makes_its_engine_core_where_ours_is_put_in() -> None:
    """router/front_half.py: by one static method, in the constructor, with these arguments."""
    assert isinstance(EngineCoreClient.__dict__["make_async_mp_client"], staticmethod)
    assert parameters(EngineCoreClient.make_async_mp_client)[:3] == ["vllm_config", "executor_class", "log_stats"]
    assert "EngineCoreClient.make_async_mp_client(" in inspect.getsource(AsyncLLM.__init__)
    assert {"vllm_config", "executor_class", "log_stats", "log_requests"} <= set(parameters(AsyncLLM.__init__))
    assert parameters(AsyncLLM.check_admission) == parameters(RouterLLM.check_admission) == ["n", "request_id"]
    assert "self.check_admission(" in inspect.getsource(AsyncLLM), "called before a request is registered"


def test_what_forgets_a_request_that_is_not_taken_stands_on() -> None:
    """router/front_half.py: one method registers a request and hands it on, but for several sequences, where vLLM forgets them itself."""
    body = inspect.getsource(AsyncLLM._add_request)
    assert parameters(AsyncLLM._add_request) == ["request", "prompt", "parent_req", "index", "queue"]
    assert body.index("self.output_processor.add_request(") < body.index("await self.engine_core.add_request_async(")
    several = inspect.getsource(AsyncLLM.add_request).partition("ParentRequest(request)")[2]
    assert "await self._add_request(" not in several
    assert several.index("except BaseException:") < several.index("await self.abort(parent_request.request_id, internal=True)")
    assert inspect.getsource(AsyncLLM).count("self.engine_core.add_request_async(") == 3, "the third registers nothing"
    assert parameters(OutputProcessor.has_request) == ["request_id"]
    assert parameters(AsyncLLM.abort) == parameters(RouterLLM.abort) == ["request_id", "internal"]


def test_all_that_async_llm_asks_of_its_engine_core_is_answered() -> None:
    """router/cluster_client.py: every member it uses is ours, or belongs to what Baton does not serve."""
    used = set(re.findall(r"self\.engine_core\.(\w+)", inspect.getsource(AsyncLLM)))
    assert used - LEFT_TO_VLLM == {name for name in used if name in vars(ClusterClient)}
    assert used >= LEFT_TO_VLLM, "the table names what vLLM does not call any more"


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_the_cluster_client_has_vllm_s_signatures(name: str) -> None:
    """router/cluster_client.py: each method it overrides takes what vLLM passes."""
    theirs, mine = getattr(EngineCoreClient, name), getattr(ClusterClient, name)
    assert parameters(mine) == parameters(theirs)
    assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(theirs)


def test_the_front_half_s_configuration() -> None:
    """router/front_half.py: the parts that a configuration without a device is put together from."""
    for part in ("create_model_config", "create_structured_outputs_config", "create_logging_config", "create_engine_config"):
        assert callable(getattr(AsyncEngineArgs, part)), part
    assert {"model_config", "structured_outputs_config", "logging_config"} <= {field.name for field in dataclasses.fields(VllmConfig)}
    assert parameters(build_app) == ["args", "supported_tasks", "model_config"]
    assert parameters(init_app_state) == ["engine_client", "state", "args", "supported_tasks"]
    assert parameters(GracefulHTTPError.__init__) == ["message", "http_status"]


def test_the_engine_client() -> None:
    """engine/vllm_engine.py: the methods that it drives an engine core with."""
    for name, asked in {
        "add_request_async": ["request"],
        "abort_requests_async": ["request_ids"],
        "get_output_async": [],
        "call_utility_async": ["method", "args"],
        "shutdown": ["timeout"],
    }.items():
        assert parameters(getattr(AsyncMPClient, name)) == asked, name


def test_sleep() -> None:
    """engine/vllm_engine.py: the utilities that an engine is put to sleep with, and woken."""
    assert parameters(EngineCore.sleep)[0] == "level"
    assert parameters(EngineCore.wake_up) == ["tags"]


@pytest.mark.parametrize(
    ("struct", "names"),
    [
        (EngineCoreRequest, "request_id prompt_token_ids mm_features sampling_params pooling_params arrival_time lora_request cache_salt"),
        (EngineCoreRequest, "data_parallel_rank prompt_embeds external_req_id abort_immediately client_index"),
        (EngineCoreOutput, "request_id new_token_ids new_logprobs new_prompt_logprobs_tensors finish_reason stop_reason events"),
        (EngineCoreOutput, "kv_transfer_params prefill_stats"),
        (EngineCoreOutputs, "outputs scheduler_stats"),
    ],
)
def test_messages(struct: type[msgspec.Struct], names: str) -> None:
    """engine/, cluster/deliveries.py, cluster/adapter_legs.py, router/dispatcher.py: the fields that are read, set or taken off."""
    assert set(names.split()) <= set(struct.__struct_fields__)


def test_statistics() -> None:
    """engine/vllm_engine.py, router/dispatcher.py: the numbers that tell where a prompt came from and what an engine holds."""
    prefill = {field.name for field in dataclasses.fields(PrefillStats)}
    assert {"num_prompt_tokens", "num_computed_tokens", "num_cached_tokens", "num_local_cached_tokens"} <= prefill
    assert "num_external_cached_tokens" in prefill
    scheduler = {field.name for field in dataclasses.fields(SchedulerStats)}
    assert {"num_running_reqs", "num_waiting_reqs", "num_skipped_waiting_reqs", "kv_cache_usage", "kv_connector_stats"} <= scheduler


def test_enumerations() -> None:
    """engine/vllm_outputs.py: the reasons and events it tells apart, and no reason it does not know."""
    assert {reason.name for reason in FinishReason} == {"STOP", "LENGTH", "ABORT", "ERROR", "REPETITION"}
    assert {"QUEUED", "SCHEDULED"} <= {event.name for event in EngineCoreEventType}


def test_sampling_parameters() -> None:
    """router/traits.py: each has been judged."""
    assert set(SamplingParams.__struct_fields__) == SAMPLING_PARAMS


@pytest.mark.parametrize("mine", [BatonStats, connector._Scheduler, BatonWorker], ids=lambda mine: mine.__name__)
def test_what_the_connector_overrides_is_there(mine: type) -> None:
    """kv_transfer/connector*.py: every method it replaces exists on its parent, with the same parameters."""
    [parent] = mine.__bases__
    overridden = [name for name, member in vars(mine).items() if inspect.isfunction(member)]
    assert overridden
    for name in overridden:
        assert hasattr(parent, name), f"{parent.__name__} has no {name} any more"
        if name != "__init__" or mine is not BatonStats:
            assert parameters(vars(mine)[name]) == parameters(getattr(parent, name)), name


def test_the_connector_s_constructor() -> None:
    """kv_transfer/connector.py: it leaves out the pull connector's own constructor, which has to do no more than build two parts."""
    assert parameters(NixlPullConnector.__init__) == parameters(connector.BatonConnector.__init__)
    assert NixlPullConnector.__mro__[1] is NixlBaseConnector
    body = inspect.getsource(NixlPullConnector.__init__)
    assert re.findall(r"self\.(\w+) = ", body) == ["connector_scheduler", "connector_worker"] * 2
    assert {role.name for role in KVConnectorRole} == {"SCHEDULER", "WORKER"}
    assert parameters(NixlBaseConnector.build_kv_connector_stats) == ["data"]
    assert callable(KVTransferConfig.get_from_extra_config)


def test_what_the_connector_reads_of_its_worker() -> None:
    """kv_transfer/connector.py: the books it takes a released leg out of are those the stock worker keeps."""
    source = Path(base_worker.__file__).read_text()
    for book in (
        "self._reqs_to_send: dict[",
        "self._reqs_to_process: set[",
        "self.consumer_notification_counts_by_req = ",
        "self.expected_consumer_notifications_by_req: dict[",
        "self.xfer_stats = NixlKVConnectorStats()",
    ):
        assert book in source, book
    assert "self._reap_expired_send_leases(" in source
    assert "self._pop_done_transfers(" in source
    assert {"finished_sending", "finished_recving"} <= set(inspect.signature(KVConnectorTransferResults).parameters)
    assert {"bytes_transferred", "transfer_duration"} <= NixlKVConnectorStats().data.keys()


def test_what_lease_words_stand_on() -> None:
    """kv_transfer/connector.py: when a word is written and erased, and how its address reaches the scheduler."""
    step = inspect.getsource(Scheduler.schedule)
    assert step.index("self.connector.update_state_after_alloc(") < step.index("self._build_kv_connector_meta("), "told in its first step"
    assert "return delay_free_blocks, dict(" in inspect.getsource(NixlPullConnectorScheduler.request_finished), "both sides read its answer"
    assert "num_blocks" in {field.name for field in dataclasses.fields(KVCacheConfig)}
    assert {"compatibility_hash", "agent_metadata_bytes"} == {field.name for field in dataclasses.fields(NixlHandshakePayload)}
    served = msgspec.msgpack.encode(LeasePayload("hash", b"agent", 4096))
    assert msgspec.msgpack.decode(served, type=NixlHandshakePayload) == NixlHandshakePayload("hash", b"agent"), "a stock engine reads it"
    register = inspect.getsource(NixlPullConnectorWorker.register_kv_caches)
    assert "agent_metadata=self.nixl_wrapper.get_agent_metadata()" in register, "describes what was registered before"
    assert "self.xfer_handshake_metadata = " in register
    assert "self._free_blocks(" in inspect.getsource(Scheduler._update_from_kv_xfer_finished), "blocks are free when the ranks say so"


def test_what_pull_checks_stand_on() -> None:
    """kv_transfer/connector_worker.py: a read's notice is put off, sent for what succeeded, and a failure is told by both sets."""
    worker = inspect.getsource(base_worker.NixlBaseConnectorWorker)
    assert "self._pending_recv_notifs: dict[ReqId, list[tuple[str, bytes]]]" in worker
    results = inspect.getsource(NixlPullConnectorWorker.get_transfer_results)
    assert results.index("if req_id in failed_recv_reqs:") < results.index("self._send_pending_recv_notifs(req_id)")
    assert "self._recv_failures.update(newly_failed)" in results
    assert "elif req_id not in self._recving_transfers:" in results
    reads = inspect.getsource(NixlPullConnectorWorker._read_blocks)
    assert 'notif_id = f"{remote_request_id}:{expected_consumers}".encode()' in reads
    assert "self._remote_agents[dst_engine_id][(0, remote_rank)]" in reads
    assert reads.count("make_prepped_xfer(") == 1
    assert "notif_msg=notif_id" in reads
    assert "if self._mixed_mem_types:" in reads
    for name in ("get_reg_descs", "register_memory", "get_xfer_descs", "initialize_xfer", "transfer", "release_xfer_handle"):
        assert callable(getattr(base_worker.NixlWrapper, name)), name


def test_what_step_times_stand_on() -> None:
    """kv_transfer/connector.py, step_clock.py: the scheduler asks its side for statistics once per step, behind its outputs; what
    a step computes is said before it goes to the model; no more steps are under way than the configuration says."""
    schedule, update = inspect.getsource(Scheduler.schedule), inspect.getsource(Scheduler.update_from_output)
    assert schedule.index("self._build_kv_connector_meta(") < schedule.index("self._update_after_schedule(scheduler_output)")
    assert update.count("self.connector.get_kv_connector_stats()") == 1
    assert "return" not in re.findall(r"^        (\w+)", update[: update.index("self.connector.get_kv_connector_stats()")], re.MULTILINE)
    assert parameters(NixlPullConnector.get_kv_connector_stats) == parameters(connector.BatonConnector.get_kv_connector_stats)
    output = {field.name for field in dataclasses.fields(SchedulerOutput)}
    assert {"num_scheduled_tokens", "total_num_scheduled_tokens", "scheduled_new_reqs", "scheduled_cached_reqs"} <= output
    assert "scheduled_spec_decode_tokens" in output
    assert {"req_id", "num_computed_tokens"} <= {field.name for field in dataclasses.fields(NewRequestData)}
    assert {"req_ids", "num_computed_tokens"} <= {field.name for field in dataclasses.fields(CachedRequestData)}
    assert "self.batch_queue_size = vllm_config.max_concurrent_batches" in inspect.getsource(EngineCore.__init__)
    assert isinstance(VllmConfig.max_concurrent_batches, property)
    both = BatonStats().aggregate(BatonStats(data={**BatonStats().data, "steps": [[1, 1, 0, 0, 0.1]]}))
    assert both.data["steps"] == [[1, 1, 0, 0, 0.1]], "a worker's and the scheduler's"


def test_what_the_quarantine_stands_on() -> None:
    """kv_transfer/quarantine.py: the scheduler hears of blocks before it frees their request, and counts their holders."""
    finished = inspect.getsource(Scheduler._update_from_kv_xfer_finished)
    assert finished.index("self.connector.update_connector_output(") < finished.index("self._free_blocks(")
    assert "self.failed_recving_kv_req_ids.add(req_id)" in inspect.getsource(Scheduler._handle_failed_recving)
    assert "self.kv_cache_manager.free(request)" in inspect.getsource(Scheduler._update_waiting_for_remote_kv)
    assert "self.connector.bind_kv_cache_manager(" in inspect.getsource(Scheduler.__init__)
    assert "self.connector.has_pending_push_work()" in inspect.getsource(Scheduler.has_requests)
    assert parameters(NixlPullConnector.bind_gpu_block_pool) == parameters(connector.BatonConnector.bind_gpu_block_pool)
    assert parameters(NixlPullConnector.build_connector_worker_meta) == parameters(connector.BatonConnector.build_connector_worker_meta)
    assert "ref_cnt += 1" in inspect.getsource(BlockPool.touch)
    assert "ref_cnt -= 1" in inspect.getsource(BlockPool.free_blocks)
    assert callable(KVConnectorWorkerMetadata.aggregate)
    assert callable(BlockNews.aggregate)
