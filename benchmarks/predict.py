"""What prediction costs, call by call: ``python -m benchmarks.predict``.

Books are full: a thousand tenants' answers, 64 x 64 links, 64 workers. Each figure is the best mean of five runs of some thousand
calls, so that what else the machine does counts little.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from cluster.leg_book import Leg, LegBook
from cluster.messages import AddLeg, LegKind
from cluster.step_fit import StepFit
from core.ids import Epoch, LegId, RouterId, WorkerId
from core.step_model import StepModel, StepWork
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState
from kv_transfer.step_clock import StepClock, work_of
from router.plan import WorkerView
from router.predict.predictor import Predictor

RUNS, CALLS = 5, 4000
BATCH = 256
FACTS = EngineFacts(block_size_tokens=16, num_blocks=30_000, max_model_len=131_072, max_num_seqs=256, max_num_batched_tokens=8192)
MODEL = StepModel(0.008, 2e-5, 5e-10, 0.006, 5e-5, 2e-8)
WORKERS = [WorkerId(f"w{number}") for number in range(64)]

Call = Callable[[int], object]


def mean_us(call: Call) -> float:
    """Microseconds of one call, told its number."""
    best = float("inf")
    for run in range(RUNS):
        began_s = time.perf_counter()
        for number in range(CALLS):
            call(run * CALLS + number)
        best = min(best, time.perf_counter() - began_s)
    return best / CALLS * 1e6


def on_the_router(rng: random.Random) -> dict[str, Call]:
    """By what is asked or told."""
    predictor, now_s = Predictor(), itertools.count(1.0)
    for _ in range(20_000):
        predictor.observe_finished("m", f"tenant {rng.randrange(1000)}", rng.randint(10, 30_000), int(rng.lognormvariate(5, 1)) + 1)
    for prefill, decode in itertools.product(WORKERS, WORKERS):
        for _ in range(7):
            predictor.observe_transfer(prefill, decode, rng.randint(1, 500) * 1_000_000, 1000, 0.01, next(now_s))
    seen = [view(worker, MODEL) for worker in WORKERS]
    silent = view(WorkerId("new"), None)
    for one in seen:
        predictor.step_model(one)
    lengths = [int(rng.lognormvariate(5, 1)) + 1 for _ in range(1000)]
    return {
        "step_model, as told": lambda n: predictor.step_model(seen[n % 64]),
        "step_model, of a new message": lambda n: predictor.step_model(view(WORKERS[n % 64], StepModel(*COEFFICIENTS[n % 2]))),
        "step_model, of a silent worker": lambda n: predictor.step_model(silent),
        "link": lambda n: predictor.link(WORKERS[n % 64], WORKERS[n // 64 % 64]).seconds(5e8),
        "expected_output, at the start": lambda n: predictor.expected_output("m", "tenant 7", 2000, 4096),
        "expected_output, after 100 tokens": lambda n: predictor.expected_output("m", "tenant 7", 2000, 4096, 100),
        "output_quantile": lambda n: predictor.output_quantile(0.9, "m", "tenant 7", 2000, 4096, 100),
        "observe_finished": lambda n: predictor.observe_finished("m", "tenant 7", 2000, lengths[n % 1000], 200.0),
        "observe_transfer": lambda n: predictor.observe_transfer(
            WORKERS[n % 64], WORKERS[n // 64 % 64], 5 * 10**8, 4000, 0.06, float(n), 0.05
        ),
        "observe_first_token": lambda n: predictor.observe_first_token(Role.PREFILL, 0.2, 0.2 + n % 7 / 100),
        "error_numbers, for a scrape": lambda n: predictor.error_numbers if n % 100 == 0 else None,
    }


COEFFICIENTS = [(0.008, 2e-5, 5e-10, 0.006, 5e-5, 2e-8), (0.008, 2e-5, 5e-10, 0.007, 5e-5, 2e-8)]


def view(worker: WorkerId, step: StepModel | None) -> WorkerView:
    """As a router has it."""
    return WorkerView(WorkerCard(worker, Epoch(1), Role.DECODE, WorkerState.READY, "tcp://h:1", "k", FACTS), WorkerLoad(step=step))


def on_the_worker(rng: random.Random) -> dict[str, Call]:
    """By what happens in a step."""
    fit, book = StepFit(), LegBook()
    works = [StepWork(batch=size, context_tokens=size * 1000) for size in range(1, 200)]
    works += [StepWork(tokens, tokens**2) for tokens in range(100, 8000, 100)]
    samples = [(work, MODEL.step_s(work) * rng.lognormvariate(0, 0.05)) for work in rng.choices(works, k=1000)]
    routers = [RouterId(f"r{number}") for number in range(8)]
    for number in range(BATCH):
        book.enter(routers[number % 8], AddLeg(LegId(str(number)), Epoch(1), LegKind.WHOLE, 1000))
    legs = [leg for number in range(BATCH) if (leg := book.get(LegId(str(number)))) is not None]
    return {
        "StepFit.observe, per step": lambda n: fit.observe(*samples[n % 1000], n * 0.01),
        f"LegBook.told, per step of {BATCH}": lambda n: tell(book, legs) if n % 10 == 0 else None,
        "LegBook.others, per router": lambda n: book.others(routers[n % 8]),
    }


def tell(book: LegBook, legs: Sequence[Leg]) -> None:
    """A token each."""
    for leg in legs:
        book.told(leg, 1)


def in_the_engine() -> dict[str, Call]:
    """By kind of step."""
    clock, decodes, mixed = StepClock(1), step_of(BATCH, 0), step_of(BATCH - 4, 4)

    def both(output: Any, now: float) -> object:
        clock.scheduled(work_of(output), output.num_scheduled_tokens.keys(), now)
        return clock.updated(now + 0.005)

    return {f"a step of {BATCH} decodes": lambda n: both(decodes, n * 0.01), "the same with prompts": lambda n: both(mixed, n * 0.01)}


def step_of(decodes: int, prompts: int) -> Any:
    """What vLLM's scheduler says of a step."""
    scheduled = {f"d{number}": 1 for number in range(decodes)} | {f"p{number}": 500 for number in range(prompts)}
    return SimpleNamespace(
        num_scheduled_tokens=scheduled,
        total_num_scheduled_tokens=sum(scheduled.values()),
        scheduled_new_reqs=[SimpleNamespace(req_id=f"p{number}", num_computed_tokens=0) for number in range(prompts)],
        scheduled_cached_reqs=SimpleNamespace(req_ids=[f"d{number}" for number in range(decodes)], num_computed_tokens=[1000] * decodes),
        scheduled_spec_decode_tokens={},
    )


EVERY = {"error_numbers, for a scrape": 100, f"LegBook.told, per step of {BATCH}": 10}
"""Long ones are made in one of so many rounds only."""


def main() -> None:
    """Prints the table."""
    rng = random.Random(1)
    print(f"{'where':10} {'what':36} {'us':>8}")
    for where, calls in (("router", on_the_router(rng)), ("worker", on_the_worker(rng)), ("engine", in_the_engine())):
        for what, call in calls.items():
            print(f"{where:10} {what:36} {mean_us(call) * EVERY.get(what, 1):8.2f}")


if __name__ == "__main__":
    main()
