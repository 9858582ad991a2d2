"""Every way to make an engine of a model and some GPUs that Baton can run as one worker, and why others cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from core.errors import ConfigError
from engine.performance.plan.engine_kind import EngineKind
from engine.performance.plan.workload import Workload
from engine.performance.roofline.memory import kv_bytes_per_sequence
from engine.performance.roofline.model import Experts
from engine.performance.roofline.named import RooflineTime

PREFILL_STEPS_TOKENS = (2048, 8192)
"""Nothing is answered meanwhile that could wait, so steps are long, where there is room for what they compute with; beyond, they are
hardly more efficient."""
DECODE_STEPS_TOKENS = (2048,)
"""What a decode worker may compute of prompts itself."""
WHOLE_STEPS_TOKENS = (512, 1024, 2048, 4096, 8192)
"""Small steps hold answers up less, large ones compute prompts sooner."""


class Kinds(msgspec.Struct, frozen=True):
    """Kinds of engines by what they are for. ``unfit``: what was left out, and why."""

    prefill: tuple[EngineKind, ...]
    decode: tuple[EngineKind, ...]
    whole: tuple[EngineKind, ...]
    unfit: tuple[str, ...]
    timings: Mapping[str, RooflineTime]
    """Of every kind, by its name."""


def kinds_of(
    model: str, prices_per_h: dict[str, float], workload: Workload, tps: Sequence[int], precision: str | None, is_calibrated: bool = True
) -> Kinds:
    """Of a model on each of the GPUs that have a price, 0 where nobody knows it. Raises ConfigError for a model or GPU that is unknown."""
    timings: list[RooflineTime] = []
    unfit: dict[str, str] = {}
    for gpu in prices_per_h:
        for found in _layouts(model, gpu, tps, precision, is_calibrated):
            if isinstance(found, str):
                unfit[found] = found
            else:
                timings.append(found)

    def made(steps_tokens: Sequence[int], together: int) -> Iterator[EngineKind]:
        for timing in timings:
            for budget in steps_tokens:
                kind = EngineKind(name_of(timing), timing.roofline, workload, budget, prices_per_h[timing.hardware])
                if kind.max_batch and kind.kv_tokens >= together * budget:
                    yield kind
                else:
                    unfit.setdefault(kind.name, _no_room(kind, together * budget))

    # A prompt's KV stays until it has been handed over: while the next step is computed.
    prefill, decode, whole = (
        tuple(made(PREFILL_STEPS_TOKENS, 2)),
        tuple(made(DECODE_STEPS_TOKENS, 1)),
        tuple(made(WHOLE_STEPS_TOKENS, 1)),
    )
    fit = {kind.name for kind in (*prefill, *decode, *whole)}
    left_out = tuple(why for name, why in unfit.items() if name not in fit)
    return Kinds(prefill, decode, whole, left_out, {name_of(timing): timing for timing in timings})


def name_of(timing: RooflineTime) -> str:
    """Short: the GPU and how an engine is split."""
    gpu = timing.hardware.rpartition("#")[2]
    return f"{gpu} tp{timing.tp}" + (f" ep{timing.ep}" if timing.ep > 1 else "")


def _layouts(model: str, gpu: str, tps: Sequence[int], precision: str | None, is_calibrated: bool) -> Iterator[RooflineTime | str]:
    """Engines within a node, experts split like the rest or each on one GPU; of the others, what is wrong."""
    RooflineTime(gpu, model, precision=precision, is_calibrated=is_calibrated)  # what is wrong with all is said at once
    for tp in tps:
        for ep in (1, tp) if tp > 1 else (1,):
            try:
                timing = RooflineTime(gpu, model, tp=tp, ep=ep, precision=precision, is_calibrated=is_calibrated)
            except ConfigError as error:
                if ep == 1:
                    yield f"{gpu} tp{tp}: {error.rule}"
                continue
            if tp > timing.roofline.hardware.node_gpus:
                yield f"{gpu} tp{tp}: a node has {timing.roofline.hardware.node_gpus}, and a worker over several nodes is not planned"
                break
            if ep == 1 or any(isinstance(mlp, Experts) for mlp in timing.roofline.setup.mlps):
                yield timing


def _no_room(kind: EngineKind, tokens: int) -> str:
    """For the model, for one request, or for the ``tokens`` of KV that steps make at once. Gigabytes are of each GPU."""
    memory = kind.memory
    besides = (memory.activation_bytes + memory.reserved_bytes) / 1e9
    usable = f"of {memory.usable_bytes / 1e9:.0f} GB"
    taken = f"{memory.weight_bytes / 1e9:.0f} GB of weights and {besides:.0f} GB besides"
    if not memory.fits:
        return f"{kind.name}: too little room: {taken}, {usable}"
    left = f"{memory.kv_bytes / 1e9:,.1f} GB are left {usable} by {taken}"
    if kind.max_batch:
        return f"{kind.name}: too little room: KV of {kind.kv_tokens:,} tokens, where steps make {tokens:,} at once: {left}"
    full = kind.workload.full_tokens
    needed = kv_bytes_per_sequence(kind.roofline.setup, full) / 1e9
    return f"{kind.name}: too little room: KV of one request of {full:,.0f} tokens is {needed:,.1f} GB, and {left}"
