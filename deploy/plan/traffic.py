"""What a trace is as a workload: lengths as different as they are, prompts cached as far as they repeat."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from engine.performance.plan.workload import Prompt, Workload
from simulation.traces import Trace, TraceRequest

_SIZES = 16
"""Groups of prompts, by what has to be computed of them, each taken for as many like its mean."""


def workload_of(trace: Trace, hit_rate: float | None = None, cache_tokens: int | None = None) -> Workload:
    """``hit_rate`` None: as the trace's prompts repeat, with room for ``cache_tokens`` in all caches together (None: for all of them)."""
    requests = trace.requests
    prompts = (
        [
            Prompt(
                max(1, round(each.prompt_tokens * (1.0 - hit_rate))),
                each.prompt_tokens - max(1, round(each.prompt_tokens * (1.0 - hit_rate))),
            )
            for each in requests
        ]
        if hit_rate is not None
        else list(_cached(requests, trace.block_tokens, cache_tokens))
    )
    prompts.sort(key=lambda prompt: prompt.new_tokens)
    inputs = sum(each.prompt_tokens for each in requests)
    outputs = sum(each.output_tokens for each in requests)
    mean_output = outputs / len(requests)
    return Workload(
        input_tokens=max(1, round(inputs / len(requests))),
        output_tokens=max(1, round(mean_output)),
        hit_rate=sum(prompt.cached_tokens for prompt in prompts) / inputs,
        prompts=tuple(_mean(group) for group in _groups(prompts)),
        answering_tokens=sum(each.output_tokens * (each.prompt_tokens + each.output_tokens / 2.0) for each in requests) / outputs,
        answer_variation=sum((each.output_tokens - mean_output) ** 2 for each in requests) / len(requests) / mean_output**2,
    )


def _cached(requests: Sequence[TraceRequest], block_tokens: int, cache_tokens: int | None) -> Iterator[Prompt]:
    """Of each prompt the leading blocks that were seen before, and not dropped since for the least recently used."""
    room = None if cache_tokens is None else cache_tokens // block_tokens
    known: OrderedDict[int, None] = OrderedDict()
    for request in requests:
        full = request.block_hashes[: request.prompt_tokens // block_tokens]
        hits = next((index for index, block in enumerate(full) if block not in known), len(full))
        for block in full:
            known[block] = None
            known.move_to_end(block)
        while room is not None and len(known) > room:
            known.popitem(last=False)
        cached = min(hits * block_tokens, request.prompt_tokens - 1)  # the last token is always computed
        yield Prompt(request.prompt_tokens - cached, cached)


def _groups(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    groups = min(_SIZES, len(prompts))
    for number in range(groups):
        yield prompts[number * len(prompts) // groups : (number + 1) * len(prompts) // groups]


def _mean(group: Sequence[Prompt]) -> Prompt:
    new = sum(prompt.new_tokens for prompt in group) / len(group)
    cached = sum(prompt.cached_tokens for prompt in group) / len(group)
    return Prompt(max(1, round(new)), round(cached))
