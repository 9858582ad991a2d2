"""Trace readers: what they read is what was published, and a changed rate changes nothing else."""

import random
from collections import OrderedDict

import pytest

from benchmarks.goodput.setups import TRACES
from core.errors import ConfigError
from simulation.traces import MOONCAKE_BLOCK_TOKENS, MOONCAKE_TICK_S, Trace, TraceRequest, azure, mooncake, synthetic


@pytest.fixture(scope="module")
def conversation():
    return mooncake(TRACES / "mooncake_conversation.jsonl.xz", random.Random(1))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def lru_reuse(trace, blocks):
    """Prompt tokens found in one cache of so many blocks, of all: the leading run of known blocks."""
    cache: OrderedDict[int, None] = OrderedDict()
    found = total = 0
    for request in trace.requests:
        leading = True
        left = request.prompt_tokens
        total += left
        for block in request.block_hashes:
            leading = leading and block in cache
            found += min(left, trace.block_tokens) if leading else 0
            left -= trace.block_tokens
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > blocks:
            cache.popitem(last=False)
    return found / total


def test_the_conversation_trace_has_its_published_means(conversation):
    """12,031 requests, 12,035 tokens in, 343 out, 3.40 per second."""
    assert len(conversation.requests) == 12_031
    assert mean(request.prompt_tokens for request in conversation.requests) == pytest.approx(12_035, abs=1)
    assert mean(request.output_tokens for request in conversation.requests) == pytest.approx(343, abs=1)
    assert conversation.rate == pytest.approx(3.40, abs=0.005)


def test_prefixes_come_back_as_often_as_published(conversation):
    """With 50,000 blocks, 36.2 % of the prompt tokens: neither spreading ticks nor cutting blocks may change who shares what."""
    assert lru_reuse(conversation, 50_000) == pytest.approx(0.362, abs=0.004)
    assert lru_reuse(conversation, 1_000) == pytest.approx(0.045, abs=0.004)


def test_every_request_shares_the_first_block(conversation):
    """Block 0 is in front of each."""
    assert {request.block_hashes[0] for request in conversation.requests} == {0}


def test_arrivals_are_spread_over_their_tick(conversation):
    """Requests of one 3 s tick come one by one, in all parts of it, and in order."""
    arrivals = [request.arrival_s for request in conversation.requests]
    assert arrivals == sorted(arrivals)
    assert len(set(arrivals)) == len(arrivals)
    places = [arrival % MOONCAKE_TICK_S for arrival in arrivals]
    assert mean(places) == pytest.approx(MOONCAKE_TICK_S / 2, rel=0.02)


def test_the_code_trace_has_its_published_means():
    """8,819 requests, 2,048 tokens in, 28 out."""
    trace = azure(TRACES / "azure_code.csv.xz")
    assert len(trace.requests) == 8_819
    assert mean(request.prompt_tokens for request in trace.requests) == pytest.approx(2_048, abs=1)
    assert mean(request.output_tokens for request in trace.requests) == pytest.approx(28, abs=0.5)
    assert trace.requests[0].arrival_s == 0.0


@pytest.mark.parametrize(("name", "requests", "tick_s"), [("sharegpt300_llama8b", 300, 0.0), ("servegen_reasoning_1h", 17_900, 0.0)])
def test_other_traces_in_the_same_format_are_read(name, requests, tick_s):
    """Blocks may be of another size, or missing."""
    trace = mooncake(TRACES / f"{name}.jsonl.xz", random.Random(1), tick_s=tick_s)
    assert len(trace.requests) == pytest.approx(requests, abs=100)


def test_a_changed_rate_keeps_the_shape(conversation):
    """Time is compressed as a whole."""
    faster = conversation.at_rate(34.0)
    assert faster.rate == pytest.approx(34.0)
    factor = conversation.rate / 34.0
    for before, after in zip(conversation.requests[:100], faster.requests[:100], strict=True):
        assert after.arrival_s == pytest.approx(before.arrival_s * factor)
        assert after.block_hashes == before.block_hashes


@pytest.mark.parametrize("requests", [1, 3])
def test_requests_of_one_moment_have_no_rate(requests):
    """Nor can one be made of them: that is said with the trace's name."""
    trace = Trace("at once", [TraceRequest(0.0, 100, 7)] * requests, 512)
    assert trace.rate is None
    with pytest.raises(ConfigError, match="at once: its requests all come at the same time"):
        trace.at_rate(3.0)


def test_smaller_blocks_share_what_larger_ones_did():
    """Two prompts have the same small blocks exactly where they had the same large ones; partial ones are left out."""
    trace = Trace("t", [TraceRequest(0.0, 1100, 1, (0, 1, 2)), TraceRequest(1.0, 1024, 1, (0, 3))], 512)
    first, second = trace.in_blocks_of(128).requests
    assert len(first.block_hashes) == 1100 // 128
    assert len(second.block_hashes) == 8
    assert first.block_hashes[:4] == second.block_hashes[:4]
    assert not set(first.block_hashes[4:]) & set(second.block_hashes[4:])


def test_blocks_must_divide():
    """Blocks of 512 cannot be cut into blocks of 100."""
    with pytest.raises(ValueError, match="512"):
        Trace("t", [TraceRequest(0.0, 1, 1)], MOONCAKE_BLOCK_TOKENS).in_blocks_of(100)


def test_synthetic_conversations_grow():
    """Within a conversation each prompt begins with the one before it; another one shares nothing."""
    requests = synthetic(random.Random(1), requests=9, rate=1.0, prompt_tokens=2000, output_tokens=10, turns=3).requests
    for first in (0, 3, 6):
        for before, after in zip(requests[first : first + 2], requests[first + 1 : first + 3], strict=True):
            assert after.prompt_tokens > before.prompt_tokens
            assert after.block_hashes[: len(before.block_hashes)] == before.block_hashes
    assert not set(requests[2].block_hashes) & set(requests[3].block_hashes)
