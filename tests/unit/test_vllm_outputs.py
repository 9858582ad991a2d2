"""Joining the outputs of several engine steps."""

from __future__ import annotations

import numpy as np
from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.outputs import LogprobsLists

from engine.vllm_outputs import merged


def logprobs() -> LogprobsLists:
    return LogprobsLists(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), np.zeros(1, np.int32))


def told(outputs: list[EngineCoreOutput]) -> list[tuple[str, list[int], bool]]:
    return [(o.request_id, o.new_token_ids, o.finished) for o in outputs]


def test_tokens_of_one_request_are_joined_in_order_and_keep_the_end():
    """Three steps of two requests become one output each, tokens in order, the last finish reason kept."""
    steps = [
        [EngineCoreOutput("a", [1]), EngineCoreOutput("b", [7])],
        [EngineCoreOutput("a", [2]), EngineCoreOutput("b", [8], finish_reason=FinishReason.STOP, stop_reason=5)],
        [EngineCoreOutput("a", [3], finish_reason=FinishReason.LENGTH)],
    ]
    joined = merged(steps)
    assert told(joined) == [("a", [1, 2, 3], True), ("b", [7, 8], True)]
    assert joined[1].stop_reason == 5
    assert joined[0].finish_reason is FinishReason.LENGTH


def test_outputs_with_logprobs_stay_apart():
    """A logprob belongs to one token: nothing is joined to such an output, nor it to others."""
    steps = [[EngineCoreOutput("a", [1])], [EngineCoreOutput("a", [2], new_logprobs=logprobs())], [EngineCoreOutput("a", [3])]]
    assert told(merged(steps)) == [("a", [1], False), ("a", [2], False), ("a", [3], False)]


def test_what_is_told_of_the_prompt_stays_with_its_own_output():
    """The output that carries prefill statistics is passed on as it is; later tokens are joined among themselves."""
    steps = [[EngineCoreOutput("a", [1], prefill_stats=PrefillStats())], [EngineCoreOutput("a", [2])], [EngineCoreOutput("a", [3])]]
    assert told(merged(steps)) == [("a", [1], False), ("a", [2, 3], False)]


def test_nothing_is_joined_behind_an_end():
    """A finished request's output is closed, even if its id comes again."""
    steps = [[EngineCoreOutput("a", [1], finish_reason=FinishReason.STOP)], [EngineCoreOutput("a", [2])]]
    assert told(merged(steps)) == [("a", [1], True), ("a", [2], False)]
