"""The Serve config file of a set-up, checked by what reads such files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from core.errors import ConfigError
from deploy.check_config import check
from deploy.plan.answer import Answer
from deploy.plan.hub_names import HUB_NAMES
from deploy.plan.text import seconds
from engine.performance.plan.engine_kind import EngineKind
from engine.performance.plan.ranking import Ranked
from engine.performance.roofline.find_model import find_model
from engine.performance.roofline.named import RooflineTime

_RAY_NAMES = {"a100": "A100-80G", "a100-40gb": "A100-40G", "a6000": "A6000", "mi300x": "AMD-Instinct-MI300X-OAM"}
"""``accelerator_type:`` resources that are not the name in capitals."""
_STREAMS_PER_ROUTER = 500
_ROOM = 2
"""Times the mean length that a request may have, where no trace says how long they get."""


def picked(answer: Answer, number: int) -> Ranked:
    """Raises ConfigError where there are fewer."""
    if number > len(answer.chosen):
        raise ConfigError(f"there are {len(answer.chosen)} set-ups", "--pick")
    return answer.chosen[number - 1]


def serve_yaml(answer: Answer, ranked: Ranked, name: str) -> str:
    """Raises ConfigError for a set-up that Baton does not serve."""
    text = "\n".join(_lines(answer, ranked)) + "\n"
    check(text, name)
    return text


def _lines(answer: Answer, ranked: Ranked) -> Iterator[str]:
    question, set_up, asked, pace = answer.question, ranked.set_up, answer.question.asked, ranked.pace
    first = set_up.prefill or set_up.decode
    workload = question.workload
    yield f"# {question.model}: {set_up}."
    lengths = f"{workload.input_tokens:,} tokens in and {workload.output_tokens:,} out"
    yield f"# Predicted for {lengths}, {ranked.rate_per_s:.2f} requests per second:"
    yield f"# {seconds(pace.ttft_s)} to the first token ({asked.share:.0%}), {seconds(pace.tpot_s)} per token after it. docs/planning.md"
    if set_up.prefill is None:
        yield "# No roles: each worker computes the prompts of what it answers."
    yield "proxy_location: EveryNode"
    yield "http_options: {host: 0.0.0.0, port: 8000}"
    yield "applications:"
    yield "  - name: baton"
    yield "    route_prefix: /"
    yield "    import_path: deploy.app:build"
    yield "    args:"
    yield f"      model: {_served(question.model)}"
    yield "      engine:"
    yield "        args:"
    yield f"          max_model_len: {_longest(answer, ranked)}   # what KV is planned for; longer requests get 400"
    yield "          gpu_memory_utilization: 0.9"
    yield from _bits(answer)
    yield "      prefill:"
    if set_up.prefill is None:
        yield "        count: 0"
    else:
        yield from _pool(answer, set_up.prefill, set_up.prefill_workers)
    yield "      decode:"
    yield from _pool(answer, set_up.decode, set_up.decode_workers, set_up.decode.max_batch)
    yield "      kv_transfer:"
    yield "        backend: nixl"
    gbps = set_up.link.port_bytes_per_s(min(first.gpus, set_up.decode.gpus)) * 8.0 / 1e9
    if math.isfinite(gbps):
        yield f"        link_gbps: {gbps:g}    # of one hand-over, until routers have seen some"
    yield "      router:"
    yield f"        replicas: {1 + int(ranked.rate_per_s * workload.output_tokens * pace.tpot_s) // _STREAMS_PER_ROUTER}"
    yield "        policy: baton"
    yield "      objectives:"
    yield f"        ttft_s: {asked.ttft_s:g}"
    yield f"        tpot_s: {asked.tpot_s:g}"


def _pool(answer: Answer, kind: EngineKind, workers: int, most_requests: int | None = None) -> Iterator[str]:
    layout = kind.roofline.setup.layout
    yield f"        count: {workers}"
    yield f"        num_gpus: {layout.gpus}"
    yield f"        tensor_parallel_size: {layout.tp}"
    if len(answer.question.gpus) > 1:
        yield f'        resources: {{"accelerator_type:{_RAY_NAMES.get(kind.gpu, kind.gpu.upper())}": 0.01}}    # as Ray calls such nodes'
    if (name := _step_times(answer.kinds.timings[kind.name])) is not None:
        yield f'        step_times: "{name}"'
    yield "        engine_args:"
    yield f"          max_num_batched_tokens: {kind.budget_tokens}"
    if most_requests is not None:
        yield f"          max_num_seqs: {most_requests}"
    if layout.ep > 1:
        yield "          enable_expert_parallel: true"


def _bits(answer: Answer) -> Iterator[str]:
    """vLLM's words for bits that are not the checkpoint's own."""
    if answer.question.precision is None:
        return
    precision = answer.kinds.whole[0].roofline.setup.precision
    if precision.weight_bits == 8:
        yield "          quantization: fp8"
    if precision.weight_bits == 4:
        yield "          # weights in 4 bits: `model` has to be a checkpoint that is quantised so"
    if precision.kv_bits == 8:
        yield "          kv_cache_dtype: fp8"


def _longest(answer: Answer, ranked: Ranked) -> int:
    """Prompt and answer together, as far as there is room for one such request, and the model takes it."""
    question, workload = answer.question, answer.question.workload
    longest = _ROOM * (workload.input_tokens + workload.output_tokens)
    if question.trace is not None:
        longest = max(each.prompt_tokens + each.output_tokens for each in question.trace.requests)
    room = min(kind.kv_tokens // kind.groups for kind in (ranked.set_up.prefill, ranked.set_up.decode) if kind is not None)
    return max(1, min(-(-longest // 1024) * 1024, room, find_model(question.model).longest_tokens or room))


def _step_times(timing: RooflineTime) -> str | None:
    """The name under which routers, on other machines, find them too; None: there is none."""
    if any(":" in part for part in (timing.hardware, timing.model)) or not (timing.model in HUB_NAMES or Path(timing.model).exists()):
        return None
    parts = ["roofline", timing.hardware, timing.model, f"tp{timing.tp}"]
    if timing.ep > 1:
        parts.append(f"ep{timing.ep}")
    if timing.precision is not None:
        parts.append(timing.precision)
    return ":".join(parts)


def _served(model: str) -> str:
    path = Path(model).expanduser()
    if model not in HUB_NAMES and path.is_file():
        return str(path.resolve().parent)
    return HUB_NAMES.get(model) or (str(path.resolve()) if path.is_dir() else model)
