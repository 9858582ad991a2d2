"""What is expected of requests that wait, by the dispatcher and queue of production on a simulated worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.metrics.words import Why
from core.step_model import StepModel
from core.worker import Role
from engine.sim_config import SimulatedEngineConfig
from router.balancer.registry import make_policy
from router.events import FailKind
from router.instructions import Fail
from router.reason import why_of
from router.service import WantedService
from router.waiting import Waiting
from simulation.cluster import Cluster, ClusterSpec, Pool
from simulation.record import Record
from simulation.traces import TraceRequest

ENGINE = SimulatedEngineConfig(
    block_size_tokens=64, num_blocks=2048, max_model_len=100_000, max_num_seqs=32, max_num_batched_tokens=2048, kv_bytes_per_token=100_000
)
STEP = StepModel(prefill_base_s=0.004, prefill_token_s=2e-5, decode_base_s=0.006, decode_request_s=1e-5)


class Scene:
    """One worker that takes on one prompt at a time; who asks when, and for what."""

    def __init__(self) -> None:
        pool = Pool(Role.DECODE, 1, ENGINE, max_prefill_tokens=1000)
        self.cluster = Cluster(ClusterSpec([pool], STEP, lambda rng, predictions: make_policy("baton", rng, predictions)), 1)
        self.records: dict[str, Record] = {}

    def at(self, time_s: float, then: Callable[[], None]) -> None:
        self.cluster.clock.at(time_s, then)

    def asks(self, time_s: float, name: str, prompt_tokens: int, service: WantedService) -> None:
        def ask() -> None:
            [router] = self.cluster.routers
            router._service = service
            self.records[name] = router.submit(name, TraceRequest(time_s, prompt_tokens, 5))

        self.at(time_s, ask)

    def runs_until(self, time_s: float) -> None:
        self.cluster.clock.run(lambda: self.cluster.clock.now() >= time_s)

    @property
    def waiting(self) -> list[Waiting]:
        return self.cluster.routers[0].dispatcher.queue.new


def test_who_waits_is_due_by_its_prompt_and_its_answer() -> None:
    """A deadline, less what the answer will take, is when the first token is due; less the prompt's own time, when to start."""
    scene = Scene()
    scene.asks(0.0, "first", 20_000, WantedService())
    scene.asks(0.01, "second", 3000, WantedService(deadline_s=60.0))
    scene.runs_until(0.05)
    [waiting] = scene.waiting
    assert waiting.takes.prefill_s == pytest.approx(2 * 0.004 + 3000 * 2e-5)
    assert 1.0 < waiting.takes.answer_s < 30.0
    assert waiting.due_s == pytest.approx(60.01 - waiting.takes.answer_s)
    assert waiting.start_by_s == pytest.approx(60.01 - waiting.takes.answer_s - 0.068)


def test_one_that_is_lost_by_its_prompts_length_makes_way() -> None:
    """Its promise is not over yet, but what is left of it is shorter than its prompt takes: it, not one that matters more, is refused."""
    scene = Scene()
    scene.asks(0.0, "first", 12_000, WantedService())
    scene.asks(0.01, "low", 5000, WantedService(priority=5, ttft_s=0.5))
    scene.asks(0.02, "better", 10_000, WantedService(priority=0, ttft_s=1.0))
    scene.asks(0.42, "newcomer", 3000, WantedService(priority=0, ttft_s=0.1))
    scene.runs_until(0.421)
    assert scene.records["low"].failure.startswith("what it is promised is lost, and requests of a better priority came")
    assert not scene.records["newcomer"].failure


def test_nobody_is_lost_by_steps_that_nobody_has_measured() -> None:
    """Priors may be wrong by far, and whoever is lost may be refused: until workers have told their steps, promises count as they are."""
    scene = Scene()
    for worker in scene.cluster.workers.values():
        worker._step = None  # type: ignore[assignment]
    scene.asks(0.0, "first", 20_000, WantedService())
    scene.asks(0.01, "second", 3000, WantedService(ttft_s=1.0))
    scene.runs_until(0.05)
    [waiting] = scene.waiting
    assert waiting.start_by_s == pytest.approx(1.01)


def test_a_prompt_that_can_never_be_in_time_is_told_so() -> None:
    """Not to try again: neither on an idle cluster nor behind others. It is nobody's fault and nobody makes way for it."""
    scene = Scene()
    promised = WantedService(ttft_s=0.3)
    scene.asks(0.1, "idle", 20_000, promised)
    scene.asks(1.0, "first", 12_000, promised)
    scene.asks(1.01, "low", 1000, WantedService(priority=5, ttft_s=5.0))
    scene.asks(1.02, "busy", 20_000, promised)
    scene.runs_until(1.1)
    said = "the prompt is too long for its promise: computing it takes 0.44 s on an idle worker, and the first token is promised "
    told = said + "within 0.3 s; ask for more time with the header `x-baton-ttft-s`, or send less"
    assert [scene.records[name].failure for name in ("idle", "busy", "first", "low")] == [told, told, "", ""]


def test_who_can_never_be_in_time_is_not_told_when_to_come_again() -> None:
    """It is refused for a reason of its own, and counted by it."""
    scene = Scene()
    failures: list[Fail] = []
    [router] = scene.cluster.routers
    take = router.dispatcher.take_failure

    def taken(client_request: str) -> Fail | None:
        fail = take(client_request)
        if fail is not None:
            failures.append(fail)
        return fail

    router.dispatcher.take_failure = taken  # type: ignore[method-assign]
    scene.asks(0.1, "idle", 20_000, WantedService(ttft_s=0.3))
    scene.runs_until(0.2)
    [fail] = failures
    assert (fail.kind, fail.retry_after_s, why_of(fail.reason)) == (FailKind.NEVER, None, Why.TOO_LONG)
