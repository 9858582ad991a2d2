"""Faults by script: what may be written, and that nothing is lost that need not be."""

import random
from collections import Counter

import pytest

from core.errors import ConfigError
from core.step_model import StepModel
from core.worker import Role
from engine.sim_config import SimulatedEngineConfig
from router.balancer.registry import make_policy
from simulation.breaking import Breaking
from simulation.cluster import ClusterSpec, Pool
from simulation.elastic import ElasticCluster
from simulation.faults import CutLink, KillWorker, RestartRouter, SlowLink, SlowWorker, read_faults
from simulation.router import ROUTER_GONE
from simulation.traces import synthetic

ENGINE = SimulatedEngineConfig(
    block_size_tokens=64, num_blocks=1024, max_model_len=16_384, max_num_seqs=64, max_num_batched_tokens=2048, kv_bytes_per_token=100_000
)
STEP = StepModel(0.004, 2e-5, 0.0, 0.006, 1e-5, 0.0)
WORKERS = {Role.PREFILL: 2, Role.DECODE: 3}


def run(*faults, routers=1, workers=WORKERS):
    """Records and cluster of a few seconds of traffic, the same each time."""
    pools = [Pool(role, count, ENGINE) for role, count in workers.items()]
    spec = ClusterSpec(pools, STEP, lambda rng, predictions: make_policy("baton", rng, predictions), routers=routers)
    cluster = ElasticCluster(spec, 1, None)
    breaking = Breaking(cluster, faults, start_up_s=2.0)
    trace = synthetic(random.Random(3), requests=150, rate=25.0, prompt_tokens=1500, output_tokens=150).in_blocks_of(64)
    return cluster.replay(trace), cluster, breaking


@pytest.mark.parametrize(
    "faults",
    [
        (KillWorker(at_s=2.0, worker="decode-0"),),
        (KillWorker(at_s=2.0, worker="prefill-0"), KillWorker(at_s=2.5, worker="decode-1", back_after_s=0.5)),
        (SlowWorker(at_s=1.0, worker="decode-2", factor=4.0, for_s=2.0),),
        (SlowLink(at_s=1.0, worker="decode-0", factor=50.0, for_s=3.0),),
        (CutLink(at_s=1.0, worker="decode-0", for_s=3.0),),
    ],
)
def test_no_fault_of_workers_or_links_loses_a_request(faults):
    """Every answer is complete, to the last token; afterwards no router has anything open, and no worker runs anything."""
    records, cluster, breaking = run(*faults)
    assert len(records) == 150
    assert all(record.is_complete for record in records), Counter(str(record.failure) for record in records)
    cluster.settle(ENGINE.lease_s * 2)
    assert all(not router.open_requests and router.dispatcher.outstanding_legs == 0 for router in cluster.routers)
    assert all(worker.idle for worker in cluster.workers.values())
    assert breaking.happened == list(faults)


def test_nobody_can_take_over_a_prompt_for_a_while():
    """The only decode worker is killed while two routers hand over to it. Until there is another one, whoever computed a prompt answers,
    too, or it waits; nothing is lost, nothing is left."""
    records, cluster, _ = run(KillWorker(at_s=2.0, worker="decode-0"), routers=2, workers={Role.PREFILL: 2, Role.DECODE: 1})
    assert all(record.is_complete for record in records), Counter(str(record.failure) for record in records)
    cluster.settle(ENGINE.lease_s * 2)
    assert all(not router.open_requests and router.dispatcher.outstanding_legs == 0 for router in cluster.routers)
    assert all(worker.idle for worker in cluster.workers.values())


def test_what_ran_on_a_killed_worker_is_carried_on_by_others():
    """And another one takes its place, after it was noticed and has started, under a name of its own."""
    records, cluster, _ = run(KillWorker(at_s=2.0, worker="decode-0"))
    assert sum(bool(record.losses) for record in records) > 0
    assert "decode-0" not in cluster.workers
    assert cluster.lives["decode-0"].ended_s == 2.0
    (name,) = set(cluster.lives) - {f"{role}-{number}" for role, count in WORKERS.items() for number in range(count)}
    assert cluster.lives[name].asked_s == 2.0 + cluster.spec.lost_after_s
    assert cluster.lives[name].role is Role.DECODE


def test_a_killed_worker_that_is_killed_again_is_not_there():
    """The script goes on, and says that nothing happened."""
    first, second = KillWorker(at_s=2.0, worker="decode-0"), KillWorker(at_s=3.0, worker="decode-0")
    assert run(first, second)[2].happened == [first]


def test_a_slow_worker_is_slow_for_as_long_as_is_written():
    """The same traffic takes longer while one of the workers is slow; when that is over it is as fast as before."""
    calm, slow = (run(*faults)[0] for faults in ((), (SlowWorker(at_s=0.0, worker="prefill-0", factor=8.0, for_s=2.0),)))
    mean = lambda records: sum(record.ttft_s for record in records) / len(records)  # noqa: E731
    assert mean(slow) > mean(calm)
    assert run(SlowWorker(at_s=0.0, worker="prefill-0", factor=1.0, for_s=2.0))[0][-1].ttft_s == calm[-1].ttft_s


def test_a_router_takes_with_it_what_it_had_open_and_nothing_else():
    """Its clients' connections break, as in life; the other router gets what comes meanwhile, and workers end what nobody waits for."""
    records, cluster, _ = run(RestartRouter(at_s=2.0, router=0, down_s=1.0), routers=2)
    broken = [record for record in records if record.failure]
    assert broken
    assert {str(record.failure) for record in broken} == {ROUTER_GONE}
    assert all(record.arrival_s <= 2.0 for record in broken)
    assert all(record.is_complete for record in records if not record.failure)
    cluster.settle(ENGINE.lease_s * 2)
    assert all(worker.idle for worker in cluster.workers.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "faults:\n- {at_s: 1, fault: kill_worker, worker: decode-3}",
            "no worker `decode-3` at the beginning; they are prefill-0 to",
        ),
        ("faults:\n- {at_s: 1, fault: kill_wroker, worker: decode-0}", "did you mean `kill_worker`?"),
        ("faults:\n- {at_s: 1, fault: earthquake}", "known: kill_worker, slow_worker, slow_link, cut_link, restart_router"),
        ("faults:\n- {at_s: 1, fault: slow_worker, worker: decode-0, for_s: 5}", "`factor`; slow_worker takes "),
        ("faults:\n- {at_s: 1, fault: kill_worker, worker: decode-0, when: now}", "unknown field `when`"),
        ("faults:\n- {at_s: -1, fault: kill_worker, worker: decode-0}", "`at_s` must be at least 0, and finite"),
        ("faults:\n- {at_s: 1, fault: slow_link, worker: decode-0, factor: 0, for_s: 1}", "`factor` must be above 0"),
        ("faults:\n- {at_s: 1, fault: restart_router, router: 1}", "there is no router 1; there is one, 0"),
        ("- {at_s: 1, fault: kill_worker}", "a list under `faults:`"),
        ("faults: [", "cannot be read"),
    ],
)
def test_a_wrong_script_is_refused_with_what_to_write(tmp_path, text, said):
    """The entry is named, and what would be right."""
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_faults(path, WORKERS, 1)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_script_is_read_in_order_of_time(tmp_path):
    """However it is written."""
    path = tmp_path / "faults.yaml"
    path.write_text(
        "faults:\n- {at_s: 9, fault: cut_link, worker: decode-2, for_s: 3}\n"
        "- {at_s: 4, fault: kill_worker, worker: prefill-1, back_after_s: 60}"
    )
    assert read_faults(path, WORKERS, 1) == [
        KillWorker(at_s=4.0, worker="prefill-1", back_after_s=60.0),
        CutLink(at_s=9.0, worker="decode-2", for_s=3.0),
    ]
