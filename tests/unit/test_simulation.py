"""The virtual cluster: it loses nothing, always does the same, and takes as long as can be worked out by hand."""

import random

import msgspec
import pytest

from cluster.leg_book import LegBook
from core.step_model import StepModel
from core.worker import Role, WorkerState
from engine.sim_config import SimulatedEngineConfig
from router.balancer.balancer import Balancer
from router.balancer.joint import Joint
from router.balancer.random_choice import Random
from router.balancer.registry import make_policy
from router.queue import QueueLimits
from router.service import WantedService
from simulation.clock import VirtualClock
from simulation.cluster import Cluster, ClusterSpec, Pool
from simulation.goodput import Objective, outcome
from simulation.kv_network import Port
from simulation.stand_ins import Tokens
from simulation.traces import Trace, TraceRequest, synthetic

ENGINE = SimulatedEngineConfig(
    block_size_tokens=64, num_blocks=512, max_model_len=16_384, max_num_seqs=32, max_num_batched_tokens=2048, kv_bytes_per_token=100_000
)
STEP = StepModel(
    prefill_base_s=0.004, prefill_token_s=2e-5, prefill_square_s=0.0, decode_base_s=0.006, decode_request_s=1e-5, decode_context_s=0.0
)
MESSAGE_S = 0.001


def cluster(prefill=2, decode=2, *, policy="least_outstanding_tokens", engine=ENGINE, seed=1, **changes):
    pools = [Pool(Role.DECODE, decode, engine)] + ([Pool(Role.PREFILL, prefill, engine)] if prefill else [])
    make = policy if callable(policy) else lambda rng, predictions: make_policy(policy, rng, predictions)
    return Cluster(ClusterSpec(pools, STEP, make, message_s=MESSAGE_S, **changes), seed)


def always_split(rng, predictions):
    """Baton's policy, but no worker does all of a request."""
    return Joint(predictions, rng, frozenset({"alone"}))


def traffic(requests=200, rate=20.0, seed=3, turns=3):
    made = synthetic(random.Random(seed), requests=requests, rate=rate, prompt_tokens=1500, output_tokens=60, turns=turns)
    return made.in_blocks_of(ENGINE.block_size_tokens)


def one(prompt_tokens, output_tokens, arrival_s=0.0):
    return Trace("one", [TraceRequest(arrival_s, prompt_tokens, output_tokens)], ENGINE.block_size_tokens)


@pytest.mark.parametrize("policy", ["least_outstanding_tokens", "random", "baton"])
@pytest.mark.parametrize(("prefill", "routers"), [(0, 1), (2, 1), (2, 3)])
def test_every_request_ends_and_nothing_is_left(policy, prefill, routers):
    """All answers are complete; then no router has anything outstanding, and no worker runs or keeps anything."""
    sim = cluster(prefill, policy=policy, routers=routers)
    trace = traffic()
    records = sim.replay(trace)
    assert [record.arrival_s for record in records] == [request.arrival_s for request in trace.requests]
    for record in records:
        assert record.is_complete, record.failure
        assert record.output_tokens == record.request.output_tokens
    sim.settle(ENGINE.lease_s * 2)
    assert all(router.dispatcher.outstanding_legs == 0 and len(router.dispatcher) == 0 for router in sim.routers)
    assert all(worker.idle for worker in sim.workers.values())
    for worker in sim.workers.values():
        stats = worker.engine.stats(sim.clock.now())
        assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, stats.num_blocks)


def test_the_same_seed_gives_the_same_result():
    """To the last bit, whatever policy draws lots; another seed does not."""
    first, second, other = (outcome(cluster(policy="random", seed=seed).replay(traffic()), Objective(1.0, 0.05)) for seed in (1, 1, 2))
    assert msgspec.json.encode(first) == msgspec.json.encode(second)
    assert first != other


def test_one_request_on_one_worker_takes_what_its_steps_take():
    """3,000 prompt tokens are two steps, of 2,048 and 952; ten more tokens are ten steps of one request; two messages on the way."""
    record = cluster(0, 1).replay(one(3000, 11))[0]
    prefill_s = 2 * 0.004 + 3000 * 2e-5
    step_s = 0.006 + 1e-5
    assert record.ttft_s == pytest.approx(2 * MESSAGE_S + prefill_s)
    assert record.tpot_s == pytest.approx(step_s)
    assert record.was_split is False


def test_a_split_request_is_handed_over_behind_its_first_token():
    """Its TTFT is prefill's alone. Until the second token there are: word to the decode worker, the pull, one step."""
    port = Port(gbps=8.0, latency_s=0.005)
    record = cluster(1, 1, port=port).replay(one(1280, 2))[0]
    assert record.was_split is True
    assert record.ttft_s == pytest.approx(2 * MESSAGE_S + 0.004 + 1280 * 2e-5)
    pulled_bytes = 1280 * 100_000
    pull_s = pulled_bytes * 8 / 8e9 + 0.005
    assert record.tpot_s == pytest.approx(2 * MESSAGE_S + pull_s + 0.006 + 1e-5, rel=1e-6)


def test_pulls_of_one_worker_share_its_port():
    """Two prompts that are pulled at the same time come one after the other."""
    requests = [TraceRequest(0.0, 1024, 2), TraceRequest(0.0, 1024, 2)]
    records = cluster(2, 1, port=Port(gbps=8.0, latency_s=0.0)).replay(Trace("two", requests, 64))
    alone_s = 1024 * 100_000 * 8 / 8e9
    seconds = sorted(record.tpot_s for record in records)
    assert seconds[0] == pytest.approx(alone_s, rel=0.1)
    assert seconds[1] == pytest.approx(2 * alone_s, rel=0.1)


def test_a_router_hands_over_where_others_have_not():
    """Two requests at the same moment by two routers, and neither knows the other's plan: about as often as not both plan for the same
    decode worker. The one with the longer prompt, done later, goes to the other: what is pulled there already would come in before it."""
    planned, went = [], []
    requests = [TraceRequest(0.0, 1280, 200), TraceRequest(0.0, 4096, 200)]
    for seed in range(12):
        sim = cluster(policy=always_split, routers=2, seed=seed, port=Port(gbps=8.0, latency_s=0.0))
        records = sim.replay(Trace("two", requests, 64))
        assert all(record.is_complete and record.was_split for record in records)
        timelines = [timeline for router in sim.routers for timeline in router.dispatcher.timelines.newest(2)]
        assert [(timeline.attempts, timeline.refusals) for timeline in timelines] == [(1, 0), (1, 0)]
        planned.append({timeline.decisions[0].decision.chosen.plan.decode for timeline in timelines})
        went.append({timeline.decode_worker for timeline in timelines})
    assert any(len(workers) == 1 for workers in planned)
    assert all(len(workers) == 2 for workers in went)


def test_a_hand_over_does_not_make_way_for_itself():
    """Two routers and one decode worker: what is pulled there already comes first, and nothing else; not what was planned for the very
    prompt that is handed over."""
    requests = [TraceRequest(0.0, 1280, 200), TraceRequest(0.0, 4096, 200)]
    sim = cluster(decode=1, policy=always_split, routers=2, port=Port(gbps=8.0, latency_s=0.0))
    sim.replay(Trace("two", requests, 64))
    [timeline] = [found for router in sim.routers for found in router.dispatcher.timelines.newest(2) if found.prompt_tokens == 4096]
    planned, decided = (made.decision.chosen for made in timeline.decisions)
    byte_s = 8 / 8e9
    assert planned.terms["transfer"] == pytest.approx(4096 * 100_000 * byte_s, rel=0.01)
    assert planned.terms["transfer"] < decided.terms["transfer"] <= (4096 + 1280) * 100_000 * byte_s * 1.01


def test_a_hand_over_that_nobody_else_can_take_goes_as_planned():
    """The only decode worker drains while the prompts are computed: no other plan is written down than the one that is followed."""
    requests = [TraceRequest(0.0, 1280, 200), TraceRequest(0.0, 4096, 200)]
    sim = cluster(decode=1, policy=always_split, routers=2, port=Port(gbps=8.0, latency_s=0.0))
    worker = sim.workers["decode-0"]
    sim.clock.at(0.01, lambda: worker.become(msgspec.structs.replace(worker.card, state=WorkerState.DRAINING)))
    records = sim.replay(Trace("two", requests, 64))
    assert all(record.is_complete and record.was_split for record in records)
    timelines = [timeline for router in sim.routers for timeline in router.dispatcher.timelines.newest(2)]
    assert [(timeline.decode_worker, len(timeline.decisions), timeline.was_transferred) for timeline in timelines] == [
        ("decode-0", 1, True)
    ] * 2


def test_a_hand_over_teaches_nothing_of_first_tokens():
    """Routers that decide again who decodes learn from what they had predicted when the request was let in, not from what they knew
    then."""
    learnt = []
    sim = cluster(policy="baton", routers=3)
    for router in sim.routers:
        predictor = router.dispatcher._foresight.predictor
        predictor.observe_first_token = lambda role, predicted_s, happened_s: learnt.append(predicted_s)
    sim.replay(traffic(rate=60.0))
    timelines = [timeline for router in sim.routers for timeline in router.dispatcher.timelines.newest(200)]
    again = [timeline for timeline in timelines if len(timeline.decisions) > timeline.attempts == 1]
    assert len(again) > 20
    assert {timeline.decisions[0].decision.chosen.ttft_s for timeline in again} <= set(learnt)


def test_a_lone_router_hands_over_as_planned():
    """Nothing has come in between that it does not know: who decodes is decided once."""
    sim = cluster(policy="baton")
    sim.replay(traffic())
    timelines = sim.routers[0].dispatcher.timelines.newest(200)
    split = [timeline for timeline in timelines if timeline.was_split]
    assert len(split) > 20
    assert all(len(timeline.decisions) == timeline.attempts for timeline in split)


def test_a_prompt_that_is_cached_is_not_computed_again():
    """The second of two equal prompts computes its last block only."""
    blocks = tuple(range(32))
    requests = [TraceRequest(0.0, 2048, 2, blocks), TraceRequest(5.0, 2048, 2, blocks)]
    first, second = cluster(0, 1).replay(Trace("two", requests, 64))
    assert first.cached_tokens == 0
    assert second.cached_tokens == 2048 - 64
    assert second.ttft_s < first.ttft_s / 3


@pytest.mark.parametrize(("tpot_s", "waits"), [(0.02, True), (0.2, False), (None, False)])
def test_a_prompt_that_would_break_a_promise_waits(tpot_s, waits):
    """A long prompt comes while a short answer is made that cannot bear to be held up by it: it is begun when that is done."""
    requests = [TraceRequest(0.0, 64, 20), TraceRequest(0.03, 15_000, 2)]
    sim = cluster(0, 1, policy="baton", service=WantedService(ttft_s=10.0, tpot_s=tpot_s), max_tokens=20)
    short, long = sim.replay(Trace("two", requests, 64))
    assert short.is_complete
    assert long.is_complete
    assert (short.tpot_s < 0.007) is waits
    assert (long.arrival_s + long.ttft_s > short.ended_s + 0.3) is waits


def test_prefix_aware_policies_hear_of_caches():
    """What workers tell of their caches reaches the index of every router, so that a follow-up goes where its history is."""
    hits = outcome(cluster(0, 4, policy="baton", routers=2).replay(traffic(rate=5.0)), Objective(1.0, 0.05)).hit_share
    blind = outcome(cluster(0, 4, policy="random").replay(traffic(rate=5.0)), Objective(1.0, 0.05)).hit_share
    assert hits > 1.3 * blind


def test_refused_requests_are_misses():
    """What the queue does not take, or does not get rid of in time, ends at once, counts as failed, and leaves nothing behind."""
    sim = cluster(1, 1, queue=QueueLimits(max_requests=5, max_wait_s=0.5))
    records = sim.replay(traffic(requests=300, rate=200.0, turns=1))
    failed = [record for record in records if record.failure]
    assert failed
    assert all(not record.is_complete and record.ended_s is not None for record in failed)
    assert outcome(records, Objective(100.0, 100.0)).failed > 0
    sim.settle(ENGINE.lease_s * 2)
    assert all(worker.idle for worker in sim.workers.values())


@pytest.mark.parametrize("routers", [1, 2])
def test_a_cluster_that_does_not_refuse_early_serves_late(routers):
    """What a cluster is told of its queue holds, however many routers share it."""
    late = {}
    for refuses in (True, False):
        queue = QueueLimits(refuse_hopeless=refuses)
        sim = cluster(1, 1, routers=routers, queue=queue, service=WantedService(ttft_s=0.2))
        records = sim.replay(traffic(requests=200, rate=60.0, turns=1))
        late[refuses] = sum(not record.failure and record.ttft_s > 0.2 for record in records)
    assert late[False] > 5 * max(1, late[True])


@pytest.mark.parametrize("policy", ["baton", "least_outstanding_tokens"])
def test_of_a_burst_as_many_are_let_in_as_can_be_in_time(policy):
    """60 prompts of 44 ms each come at once to a worker that takes on four at a time: 22 can have their first token within a second.
    Those are let in although most must wait; who cannot be among them hears so at once."""
    sim = cluster(1, 1, policy=policy, service=WantedService(ttft_s=1.0))
    before = [TraceRequest(n * 0.2, 1000 + 10 * n, 2 + n % 40) for n in range(100)]  # nobody is refused before steps have been measured
    burst = [TraceRequest(30.0 + n * 1e-4, 2000, 2) for n in range(60)]
    records = sim.replay(Trace("burst", [*before, *burst], ENGINE.block_size_tokens))[100:]
    accepted = [record for record in records if not record.failure]
    assert len(accepted) in (range(36, 45) if policy == "baton" else range(20, 23))  # Baton has the decode worker compute some, too
    assert [record for record in accepted if record.ttft_s > 1.0] == []
    refused_late = [record for record in records if record.failure and record.ended_s - record.arrival_s > 0.05]
    assert len(refused_late) <= 7  # those with which it was touch and go


def test_nobody_is_refused_who_can_be_in_time_alone():
    """Prompts come faster than the one prefill worker computes them, four steps each and one at a time, and answers have time to spare:
    decode workers compute the rest."""
    engine = msgspec.structs.replace(ENGINE, max_num_batched_tokens=512)
    sim = cluster(
        1, 3, policy="baton", engine=engine, service=WantedService(ttft_s=0.3, tpot_s=0.015), queue=QueueLimits(refuse_hopeless=True)
    )
    trace = synthetic(random.Random(5), requests=600, rate=30.0, prompt_tokens=2000, output_tokens=120, turns=1)
    records = sim.replay(trace.in_blocks_of(ENGINE.block_size_tokens))
    assert outcome(records, Objective(0.3, 0.015)).share > 0.9


def test_of_those_who_cannot_all_be_in_time_the_longest_are_refused():
    """Every second prompt of a burst is five times as long as the others. The short ones come after it and are all served in time."""
    sim = cluster(1, 1, service=WantedService(ttft_s=1.0))
    before = [TraceRequest(n * 0.2, 1000 + 10 * n, 2 + n % 40) for n in range(100)]
    burst = [TraceRequest(30.0 + n * 1e-4, 2500 if n % 2 else 500, 2) for n in range(40)]
    records = sim.replay(Trace("burst", [*before, *burst], ENGINE.block_size_tokens))[100:]
    short, long = records[::2], records[1::2]
    assert [record.failure for record in short if record.failure] == []
    assert all(record.ttft_s <= 1.0 for record in records if not record.failure)
    assert 0 < sum(not record.failure for record in long) < len(long)
    assert any("waits with a long prompt" in record.failure for record in long)


def test_routers_reckon_with_what_waits_with_the_others(monkeypatch):
    """More comes to four routers than can be in time. Knowing of each other's queues they keep a tenth more promises than if each knew
    its own only: they let in fewer that then have to be sent away, late, or are late."""

    def in_time():
        sim = cluster(1, 1, routers=4, service=WantedService(ttft_s=1.0))
        records = sim.replay(traffic(requests=600, rate=60.0, turns=1))
        return sum(not record.failure and record.ttft_s <= 1.0 for record in records)

    told = in_time()
    monkeypatch.setattr(LegBook, "queued", lambda book, router, tokens: None)
    assert told > 1.1 * in_time()


def test_the_newest_can_be_the_one_to_be_refused_instead():
    """As it is set: then short ones go, too."""
    queue = QueueLimits(longest_makes_way=False)
    sim = cluster(1, 1, queue=queue, service=WantedService(ttft_s=1.0))
    before = [TraceRequest(n * 0.2, 1000 + 10 * n, 2 + n % 40) for n in range(100)]
    burst = [TraceRequest(30.0 + n * 1e-4, 2500 if n % 2 else 500, 2) for n in range(40)]
    records = sim.replay(Trace("burst", [*before, *burst], ENGINE.block_size_tokens))[100:]
    assert [record for record in records[::2] if record.failure]
    assert not [record for record in records if "waits with a long prompt" in record.failure]


def test_who_is_refused_for_the_wait_has_a_decision_that_says_so():
    """Why nobody could take it: whoever asks later finds the decision beside the reason."""
    sim = cluster(1, 1, service=WantedService(ttft_s=0.3))
    sim.replay(traffic(requests=200, rate=60.0, turns=1))
    failed = [timeline for timeline in sim.routers[0].dispatcher.timelines.newest(1000) if timeline.outcome == "failed"]
    early = [timeline for timeline in failed if "the first token would come after" in timeline.error]
    assert early
    assert all(timeline.decisions for timeline in early)
    assert any(timeline.decisions[-1].decision.chosen is None for timeline in early)


def test_who_waits_by_choice_is_not_decided_on_all_the_time(monkeypatch):
    """Every word of a worker wakes those that wait; what they wait for has not changed by that. It is served as well."""
    before = [TraceRequest(0.3 * number, 1000, 20) for number in range(20)]
    burst = Trace("burst", [*before, *(TraceRequest(8 + 0.005 * number, 3000, 100) for number in range(40))], ENGINE.block_size_tokens)
    chosen = []
    choose = Balancer.choose

    def counted(balancer, ask, view):
        chosen.append(ask.request)
        return choose(balancer, ask, view)

    monkeypatch.setattr(Balancer, "choose", counted)

    def decisions():
        """Beyond each request's first."""
        chosen.clear()
        records = cluster(2, 2, policy="baton", service=WantedService(tpot_s=0.01)).replay(burst)
        assert all(record.is_complete for record in records)
        return len(chosen) - len(set(chosen))

    seldom = decisions()
    monkeypatch.setattr("router.placing._AGAIN_S", 0.0)
    assert decisions() > 1.3 * seldom


def test_the_clock_lets_things_happen_in_order():
    """By time, then as asked; what is cancelled does not happen; the past is now."""
    clock, seen = VirtualClock(), []
    clock.at(2.0, lambda: seen.append(("b", clock.now())))
    clock.at(1.0, lambda: seen.append(("a", clock.now())))
    clock.at(2.0, lambda: clock.at(0.5, lambda: seen.append(("late", clock.now()))))
    clock.later(3.0, lambda: seen.append(("never", clock.now()))).cancel()
    assert clock.run(lambda: False) is False
    assert seen == [("a", 1.0), ("b", 2.0), ("late", 2.0)]


def test_tokens_are_only_counted():
    """A prompt of any length takes no memory, and behaves like a list of zeros."""
    tokens = Tokens(10**9)
    assert len(tokens) == 10**9
    assert len(tokens[5:10]) == 5
    assert tokens[-1] == 0
    with pytest.raises(IndexError):
        tokens[10**9]


def test_two_pools_of_one_role_are_refused():
    """Workers are named after their role."""
    with pytest.raises(ValueError, match="one pool of each role"):
        ClusterSpec([Pool(Role.DECODE, 1, ENGINE), Pool(Role.DECODE, 1, ENGINE)], STEP, lambda rng, predictions: Random(rng))
