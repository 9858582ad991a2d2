"""The simulated engine's scheduler, without a clock: every test says what time it is."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from core.ids import LegId
from engine.sim_blocks import BlocksStored
from engine.sim_config import SimulatedEngineConfig
from engine.sim_request import Emitted, PromptCounts, RemotePrompt, SimRequest
from engine.sim_scheduler import SimScheduler
from engine.sim_step import Step, StepResult

A, B, C = LegId("a"), LegId("b"), LegId("c")
BLOCK = 4


def make(**changes: Any) -> SimScheduler:
    settings = {"block_size_tokens": BLOCK, "num_blocks": 16, "max_model_len": 64, "max_num_seqs": 4, "max_num_batched_tokens": 32}
    return SimScheduler(SimulatedEngineConfig(vocab_size=1000, kv_bytes_per_token=10, lease_s=10, **{**settings, **changes}))


def ask(leg: LegId, tokens: int = 8, max_tokens: int = 4, first: int = 0, **changes: Any) -> SimRequest:
    return SimRequest(leg, list(range(first, first + tokens)), max_tokens, **changes)


def remote(tokens: int) -> RemotePrompt:
    return RemotePrompt("keeper", LegId("kept"), "host", 1, tokens)


def step(scheduler: SimScheduler, now: float = 0.0) -> tuple[Step, StepResult]:
    planned = scheduler.schedule(now)
    return planned, scheduler.finish(planned, now)


def run(scheduler: SimScheduler, limit: int = 200) -> list[Emitted]:
    """Steps until nothing is left to compute."""
    emitted: list[Emitted] = []
    for _ in range(limit):
        planned, result = step(scheduler)
        emitted += result.emitted
        if not planned.chunks:
            return emitted
    raise AssertionError(f"not done after {limit} steps")


def tokens_of(leg: LegId, emitted: list[Emitted]) -> list[int]:
    return [entry.token for entry in emitted if entry.leg == leg and entry.token is not None]


def sizes(planned: Step) -> dict[str, int]:
    return {chunk.sequence.request.leg: chunk.tokens for chunk in planned.chunks}


@pytest.fixture
def scheduler() -> Iterator[SimScheduler]:
    """A scheduler that must be empty again when the test is over."""
    made = make()
    yield made
    stats = made.stats
    assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, stats.num_blocks)


def test_a_request_runs_to_its_length(scheduler: SimScheduler) -> None:
    """One prefill step gives the first token, each further step one more, the last says why it is the last."""
    scheduler.add(ask(A), 0)
    emitted = run(scheduler)
    assert [entry.ended for entry in emitted] == ["", "", "", "length"]
    assert emitted[0].counts == PromptCounts(8, 0, 0)
    assert emitted[1].counts is None


def test_tokens_depend_on_tokens_before_only(scheduler: SimScheduler) -> None:
    """Continuing from prompt + emitted tokens gives the tokens that would have come anyway; another prompt gives others."""
    scheduler.add(ask(A, max_tokens=8), 0)
    whole = tokens_of(A, run(scheduler))
    scheduler.add(SimRequest(B, list(range(8)) + whole[:3], 5), 0)
    assert tokens_of(B, run(scheduler)) == whole[3:]
    scheduler.add(ask(C, max_tokens=8, first=1), 0)
    assert tokens_of(C, run(scheduler)) != whole


@pytest.mark.parametrize("out", [1, 3, 4, 5, 7])
def test_emitted_tokens_are_output_made_elsewhere(scheduler: SimScheduler, out: int) -> None:
    """The rest is the undisturbed one; limits count the whole output; what is given is computed once and counted so."""
    limits: dict[str, Any] = {"max_tokens": 8, "min_tokens": 6}
    scheduler.add(ask(A, **limits, stop_token_ids=frozenset({5})), 0)
    whole = tokens_of(A, run(scheduler))
    assert scheduler.clear_cache()
    before = scheduler.stats.computed_prompt_tokens
    scheduler.add(ask(B, **limits, stop_token_ids=frozenset({5}), emitted=whole[:out]), 0)
    emitted = run(scheduler)
    assert tokens_of(B, emitted) == whole[out:]
    assert [entry.ended for entry in emitted] == [""] * (7 - out) + ["length"]
    assert [entry.counts for entry in emitted] == [PromptCounts(8 + out, 0, 0)] + [None] * (7 - out)
    assert scheduler.stats.computed_prompt_tokens - before == 8 + out


def test_min_tokens_count_emitted_ones(scheduler: SimScheduler) -> None:
    """A stop token is barred exactly as long as in the undisturbed run."""
    scheduler.add(ask(A, max_tokens=8), 0)
    plain = tokens_of(A, run(scheduler))
    stops = frozenset({plain[2], plain[4]})
    scheduler.add(ask(B, max_tokens=8, min_tokens=4, stop_token_ids=stops), 0)
    whole = tokens_of(B, run(scheduler))
    assert whole[:2] == plain[:2]
    assert whole[2] != plain[2]
    scheduler.add(ask(C, max_tokens=8, min_tokens=4, stop_token_ids=stops, emitted=whole[:2]), 0)
    assert tokens_of(C, run(scheduler)) == whole[2:]


def test_emitted_tokens_are_pulled_and_kept_like_the_prompt(scheduler: SimScheduler) -> None:
    """A prefill leg keeps the KV of all it was given; a decode leg pulls as much."""
    scheduler.add(ask(A, tokens=6, max_tokens=4, emitted=[91, 92, 93], keep=True), 0)
    [entry] = run(scheduler)
    assert entry.kept is not None
    assert (entry.ended, entry.kept.tokens) == ("length", 9)
    assert scheduler.release(A)
    scheduler.add(ask(B, tokens=6, max_tokens=6, first=50, emitted=[91, 92, 93, 94], remote=remote(9)), 0)
    planned, _ = step(scheduler)
    assert [pull.transfer_bytes for pull in planned.pulls] == [3 * BLOCK * 10]
    scheduler.pulled(B, 0)
    emitted = run(scheduler)
    assert emitted[0].counts == PromptCounts(10, 0, 9)
    assert len(emitted) == 2


def test_what_is_given_can_be_too_long(scheduler: SimScheduler) -> None:
    """Prompt and emitted tokens together."""
    scheduler.add(ask(A, tokens=60, max_tokens=9, emitted=[1] * 5), 0)
    assert [entry.ended for entry in run(scheduler)] == ["error"]


def test_stop_tokens_end_an_output(scheduler: SimScheduler) -> None:
    """A sampled stop token ends the output and is named; before ``min_tokens`` it is not sampled."""
    scheduler.add(ask(A, max_tokens=8), 0)
    whole = tokens_of(A, run(scheduler))
    scheduler.add(ask(B, max_tokens=8, stop_token_ids=frozenset({whole[2]})), 0)
    stopped = run(scheduler)
    assert tokens_of(B, stopped) == whole[:3]
    assert (stopped[-1].ended, stopped[-1].stop_token_id) == ("stop", whole[2])
    scheduler.add(ask(C, max_tokens=8, stop_token_ids=frozenset({whole[2]}), min_tokens=8), 0)
    assert whole[2] not in tokens_of(C, run(scheduler))


def test_end_of_sequence_comes_only_where_configured() -> None:
    """It ends an output that minds it, and is not sampled for one that ignores it, nor before ``min_tokens``."""
    scheduler = make(eos_token_id=7, mean_output_tokens=3)
    scheduler.add(ask(A, max_tokens=40, eos_token_id=7), 0)
    emitted = run(scheduler)
    assert (emitted[-1].token, emitted[-1].ended, emitted[-1].stop_token_id) == (7, "stop", None)
    assert len(emitted) < 40
    scheduler.add(ask(B, max_tokens=40), 0)
    assert 7 not in tokens_of(B, run(scheduler))
    scheduler.add(ask(C, max_tokens=40, min_tokens=30, eos_token_id=7), 0)
    assert 7 not in tokens_of(C, run(scheduler))[:30]


def test_long_prompts_are_computed_in_chunks() -> None:
    """A step computes at most its budget; running requests have theirs before new ones."""
    scheduler = make(max_num_batched_tokens=10)
    scheduler.add(ask(A, tokens=5), 0)
    scheduler.add(ask(B, tokens=12, first=20), 0)
    assert sizes(step(scheduler)[0]) == {A: 5, B: 5}
    planned, result = step(scheduler)
    assert sizes(planned) == {A: 1, B: 7}
    assert {entry.leg for entry in result.emitted} == {A, B}
    assert (planned.work.prefill_tokens, planned.work.prefill_squares) == (7, 12**2 - 5**2)
    assert (planned.work.batch, planned.work.context_tokens) == (1, 6)


def test_requests_beyond_max_num_seqs_wait_in_order() -> None:
    """First come, first served."""
    scheduler = make(max_num_seqs=1)
    for leg in (A, B, C):
        scheduler.add(ask(leg, max_tokens=2), 0)
    assert scheduler.stats.waiting == 3
    assert [entry.leg for entry in run(scheduler)] == [A, A, B, B, C, C]


def test_a_repeated_prompt_is_a_prefix_hit(scheduler: SimScheduler) -> None:
    """Only full blocks are found, and never the last token; another salt finds nothing."""
    scheduler.add(ask(A, tokens=8), 0)
    run(scheduler)
    scheduler.add(ask(B, tokens=8), 0)
    assert run(scheduler)[0].counts == PromptCounts(8, BLOCK, 0)
    scheduler.add(ask(C, tokens=11), 0)
    assert run(scheduler)[0].counts == PromptCounts(11, 8, 0)
    scheduler.add(ask(A, tokens=8, salt="tenant"), 0)
    assert run(scheduler)[0].counts == PromptCounts(8, 0, 0)
    assert scheduler.stats.computed_prompt_tokens == 8 + 4 + 3 + 8


def test_stored_blocks_name_their_parent(scheduler: SimScheduler) -> None:
    """Blocks filled while decoding continue the chain of the prompt's blocks; the salt is told where the chain starts."""
    scheduler.add(ask(A, tokens=6, max_tokens=4, salt="tenant"), 0)
    stored: list[BlocksStored] = []
    for _ in range(5):
        stored += [event for event in step(scheduler)[1].block_events if isinstance(event, BlocksStored)]
    assert [list(event.token_ids)[:2] for event in stored] == [[0, 1], [4, 5]]
    assert [event.salt for event in stored] == ["tenant", None]
    assert [event.parent for event in stored] == [None, stored[0].hashes[0]]


def test_without_blocks_the_youngest_starts_over() -> None:
    """Preemption changes no token, and whoever was preempted is the next to run."""
    alone = make(num_blocks=64)
    for leg, first in ((A, 0), (B, 100)):
        alone.add(ask(leg, tokens=10, max_tokens=30, first=first), 0)
    tight = make(num_blocks=12, max_model_len=48)
    for leg, first in ((A, 0), (B, 100)):
        tight.add(ask(leg, tokens=10, max_tokens=30, first=first), 0)
    expected, emitted = run(alone), run(tight)
    assert any(mark.name == "PREEMPTED" for entry in emitted for mark, _ in entry.marks)
    for leg in (A, B):
        assert tokens_of(leg, emitted) == tokens_of(leg, expected)
    assert tight.stats.free_blocks == 12


def test_a_prompt_that_can_never_fit_ends_with_an_error(scheduler: SimScheduler) -> None:
    """Nothing waits for ever; an aborted one says nothing either."""
    scheduler.add(ask(A, tokens=65), 0)
    scheduler.add(ask(B, tokens=0), 0)
    scheduler.add(ask(C, tokens=65), 0)
    scheduler.abort(C)
    assert [(entry.leg, entry.token, entry.ended) for entry in run(scheduler)] == [(A, None, "error"), (B, None, "error")]


def test_the_longest_sequence_ends_at_max_model_len(scheduler: SimScheduler) -> None:
    """Prompt and output together are never longer."""
    scheduler.add(ask(A, tokens=60, max_tokens=100), 0)
    assert [entry.ended for entry in run(scheduler)] == ["", "", "", "length"]


def test_abort_frees_at_once_in_every_state() -> None:
    """Waiting, pulling, arrived, running, in the middle of a step, and kept; the unread remote prompt is returned for dismissal."""
    scheduler = make(max_num_seqs=1)
    scheduler.add(ask(A), 0)
    scheduler.add(ask(B, remote=remote(8)), 0)
    planned = scheduler.schedule(0)
    assert scheduler.abort(B) == remote(8)
    assert scheduler.abort(A) is None
    assert scheduler.finish(planned, 1).emitted == []
    assert scheduler.stats.free_blocks == 16
    scheduler.add(ask(C, remote=remote(8)), 0)
    step(scheduler)
    assert scheduler.stats.free_blocks == 14
    assert scheduler.abort(C) == remote(8)
    scheduler.pulled(C, 1)
    scheduler.add(ask(C, remote=remote(8)), 0)
    step(scheduler)
    scheduler.pulled(C, 1)
    assert scheduler.abort(C) is None
    scheduler.add(ask(A, max_tokens=1, keep=True, first=50), 0)
    step(scheduler)
    assert scheduler.stats.free_blocks == 14
    scheduler.abort(A)
    assert step(scheduler)[1].released == [A]
    assert scheduler.stats.free_blocks == 16
    assert scheduler.stats.waiting == scheduler.stats.running == 0


def test_a_kept_prompt_holds_its_blocks_until_released(scheduler: SimScheduler) -> None:
    """The last output says which blocks hold how many tokens; a release frees them at once and is told once."""
    scheduler.add(ask(A, tokens=9, max_tokens=1, keep=True), 0)
    [emitted] = step(scheduler)[1].emitted
    assert emitted.kept is not None
    assert (len(emitted.kept.blocks), emitted.kept.tokens) == (3, 9)
    assert (scheduler.stats.free_blocks, scheduler.stats.running) == (13, 0)
    assert scheduler.release(A)
    assert not scheduler.release(A)
    result = step(scheduler)[1]
    assert (result.released, result.expired) == ([A], [])


def test_a_lease_expires_unless_renewed(scheduler: SimScheduler) -> None:
    """It ends ``lease_s`` after the last word of a reader, and that word comes too late then."""
    scheduler.add(ask(A, max_tokens=1, keep=True), 0)
    step(scheduler)
    assert scheduler.next_expiry_s == 10
    assert scheduler.renew(A, 9)
    assert step(scheduler, 18)[1].released == []
    assert not scheduler.renew(A, 19)
    result = step(scheduler, 19)[1]
    assert (result.released, result.expired) == ([A], [A])
    assert scheduler.next_expiry_s is None


@pytest.mark.parametrize(
    ("prompt", "kept", "external", "computed"),
    [
        pytest.param(9, 8, 8, 1, id="first token after a prompt of full blocks"),
        pytest.param(8, 7, 7, 1, id="first token after a prompt with a partial block"),
        pytest.param(8, 8, 8, 1, id="all pulled, the last token computed again"),
        pytest.param(8, 20, 8, 1, id="no more is pulled than the prompt"),
        pytest.param(12, 4, 4, 8, id="a part"),
    ],
)
def test_a_remote_prompt_is_pulled_not_computed(scheduler: SimScheduler, prompt: int, kept: int, external: int, computed: int) -> None:
    """A request waits, with its blocks, until they are filled; only what was not pulled is computed, and at least one token."""
    scheduler.add(ask(A, tokens=prompt, max_tokens=1, remote=remote(kept)), 0)
    planned, _ = step(scheduler)
    [pull] = planned.pulls
    assert not planned.chunks
    assert pull.transfer_bytes == -(-external // BLOCK) * BLOCK * 10
    assert (scheduler.stats.waiting, scheduler.stats.running) == (1, 0)
    scheduler.pulled(A, 2)
    planned, result = step(scheduler, 2)
    assert sizes(planned) == {A: computed}
    assert result.emitted[0].counts == PromptCounts(prompt, 0, external)
    assert [(transfer.leg, transfer.transfer_bytes, transfer.transfer_s) for transfer in result.transfers] == [(A, pull.transfer_bytes, 2)]
    assert scheduler.stats.received_bytes == pull.transfer_bytes


def test_only_what_is_not_cached_is_pulled(scheduler: SimScheduler) -> None:
    """Locally known blocks are not pulled; with all of them known the keeper is told so and nothing is waited for."""
    scheduler.add(ask(A, tokens=8, max_tokens=1), 0)
    run(scheduler)
    scheduler.add(ask(B, tokens=13, max_tokens=1, remote=remote(12)), 0)
    planned, _ = step(scheduler)
    assert planned.pulls[0].transfer_bytes == BLOCK * 10
    scheduler.pulled(B, 0)
    assert run(scheduler)[0].counts == PromptCounts(13, 8, 4)
    scheduler.add(ask(C, tokens=13, max_tokens=1, remote=remote(12)), 0)
    planned, result = step(scheduler)
    assert (planned.pulls, planned.dismissed) == ([], [remote(12)])
    assert result.emitted[0].counts == PromptCounts(13, 12, 0)


def test_a_failed_pull_is_computed_here(scheduler: SimScheduler) -> None:
    """The tokens are the same, and counted as computed."""
    scheduler.add(ask(A), 0)
    whole = tokens_of(A, run(scheduler))
    assert scheduler.clear_cache()
    scheduler.add(ask(B, remote=remote(8)), 0)
    step(scheduler)
    scheduler.pull_failed(B)
    emitted = run(scheduler)
    assert tokens_of(B, emitted) == whole
    assert emitted[0].counts == PromptCounts(8, 0, 0)
    assert scheduler.stats.computed_prompt_tokens == 16


def test_pulled_requests_are_admitted_before_waiting_ones() -> None:
    """They hold blocks, so they are the first to get on."""
    scheduler = make(max_num_seqs=1)
    scheduler.add(ask(A, remote=remote(8)), 0)
    scheduler.add(ask(B, first=20), 0)
    scheduler.add(ask(C, first=40), 0)
    step(scheduler)
    scheduler.pulled(A, 0)
    assert list(dict.fromkeys(entry.leg for entry in run(scheduler))) == [B, A, C]


def test_a_request_that_waits_for_blocks_runs_when_a_lease_ends() -> None:
    """Nothing is scheduled meanwhile, so an engine can sleep until then."""
    scheduler = make(num_blocks=4, max_model_len=16)
    scheduler.add(ask(A, tokens=12, max_tokens=1, keep=True), 0)
    step(scheduler)
    scheduler.add(ask(B, tokens=8, max_tokens=1, first=50), 0)
    assert step(scheduler, 5)[0].chunks == []
    assert sizes(step(scheduler, 10)[0]) == {B: 8}


def expected_tokens(request: SimRequest) -> list[int]:
    """What a roomy engine answers to this request alone."""
    alone = make(num_blocks=64)
    alone.add(SimRequest(request.leg, request.prompt, request.max_tokens, emitted=request.emitted), 0)
    return tokens_of(request.leg, run(alone))


@pytest.mark.parametrize("seed", range(30))
def test_any_order_of_calls_gives_the_right_tokens_and_leaves_nothing(seed: int) -> None:
    """Adds, aborts, pulls that arrive or fail, releases and expiries between and in the middle of steps, in little room."""
    chance = random.Random(seed)
    scheduler = make(
        num_blocks=chance.choice([16, 18, 24]), max_num_seqs=chance.choice([1, 3, 8]), max_num_batched_tokens=chance.choice([3, 40])
    )
    live: dict[LegId, SimRequest] = {}
    answers: dict[LegId, list[int]] = {}
    pulling: list[LegId] = []
    kept: set[LegId] = set()

    def call(now: float) -> None:
        kind = chance.choice(["add", "add", "abort", "pull", "pull", "pull", "release"])
        if kind == "add" and len(answers) < 40:
            leg = LegId(str(len(answers)))
            tokens = chance.randint(1, 40)
            source = remote(chance.randint(1, tokens)) if chance.random() < 0.4 else None
            out = chance.choice([[], [], [7, 8, 9]])
            most = len(out) + chance.randint(1, 20)
            live[leg] = ask(leg, tokens, most, chance.choice([0, 100]), keep=chance.random() < 0.3, remote=source, emitted=out)
            answers[leg] = []
            scheduler.add(live[leg], now)
        elif kind == "abort" and live and chance.random() < 0.3:
            leg = chance.choice(list(live))
            scheduler.abort(leg)
            del live[leg]
        elif kind == "pull" and pulling:
            leg = pulling.pop(chance.randrange(len(pulling)))
            if chance.random() < 0.7:
                scheduler.pulled(leg, now)
            else:
                scheduler.pull_failed(leg)
        elif kind == "release" and kept:
            scheduler.release(chance.choice(sorted(kept)))

    now = 0.0
    for _ in range(3000):
        call(now)
        planned = scheduler.schedule(now)
        pulling += [pull.leg for pull in planned.pulls]
        call(now)
        now += chance.choice([0.0, 0.1, 1.0])
        result = scheduler.finish(planned, now)
        for emitted in result.emitted:
            answers[emitted.leg] += [] if emitted.token is None else [emitted.token]
            if emitted.ended:
                request = live.pop(emitted.leg)
                assert answers[emitted.leg] == expected_tokens(request)
                kept |= {emitted.leg} if request.keep else set()
        kept -= set(result.released)
        if len(answers) == 40 and not live and not kept:
            break
    assert not live
    assert not kept
    assert (scheduler.stats.running, scheduler.stats.waiting) == (0, 0)
    assert scheduler.stats.free_blocks == scheduler.stats.num_blocks
