"""Baton beside NVIDIA Dynamo: the same simulated workers, the same trace, over HTTP; one row each. Then both rules on the virtual clock.

    python -m benchmarks.peers --trace azure_code --requests 400 --rate 22 --slowdown 5

Needs pip to have ai-dynamo; its environment is made in --cache at the first run. The beginning of a trace has a
rate of its own, which is said; each of the two takes slowdown * requests / that rate seconds, a minute to start and one to warm up.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.drive import drive
from benchmarks.peers.dynamo import VERSION, dynamo, environment
from benchmarks.peers.fleet import Fleet
from benchmarks.peers.model import tokenizer_only
from benchmarks.peers.ours import ours
from benchmarks.peers.virtual import virtual
from benchmarks.servers import ROOT
from deploy.demo_model import VOCAB_SIZE
from simulation.goodput import Objective, Outcome, outcome
from simulation.record import Record
from simulation.traces import Trace, azure, mooncake

SETTLE_S = 3.0
"""Between ready and the first request: workers are known before what they publish is subscribed to, and Baton's tell of themselves every
``slowdown`` times 0.3 seconds."""
_WARM_UP_PER_WORKER = 40
_WARM_UP_RATE = 16.0
"""Per second, in the trace's time."""
HEAD = "| system | good requests | TTFT p50 / p90 / p99 s | TPOT p50 / p90 / p99 ms | late TTFT, TPOT, both | failed |"


def main() -> None:
    arguments = _arguments()
    fleet = Fleet(arguments.timing, arguments.slowdown, arguments.prefill, arguments.decode)
    objective = Objective(arguments.ttft_s, arguments.tpot_s)
    trace = _trace(arguments.trace, arguments.requests, arguments.rate, fleet.max_model_len, arguments.seed)
    cache: Path = arguments.cache
    model = tokenizer_only(cache.absolute() / "model", fleet.max_model_len)
    systems: dict[str, Callable[[], AbstractContextManager[str]]] = {
        f"Dynamo {VERSION}": lambda: dynamo(environment(cache, arguments.python), fleet, model),
        f"Baton ({arguments.policy})": lambda: ours(fleet, model, arguments.policy, objective),
    }
    pools = f"{fleet.prefill} prefill and {fleet.decode} decode workers"
    print(f"{_described(trace)}; {pools}, {fleet.timing}, slowed {fleet.slowdown:g} times")
    print(f"objective: TTFT {objective.ttft_s:g} s, TPOT {1000 * objective.tpot_s:g} ms\n\n{HEAD}\n|---|---|---|---|---|---|", flush=True)
    for name, start in systems.items():
        if arguments.only and not name.lower().startswith(arguments.only):
            continue
        with _said(name), start() as url:
            time.sleep(SETTLE_S + 0.6 * fleet.slowdown)
            _warm_up(url, fleet, trace)
            records = asyncio.run(drive(url, "demo", trace, slowdown=fleet.slowdown, vocab_size=VOCAB_SIZE))
        print(_row(name, outcome(records, objective)), flush=True)
        _say_failures(records)
    if arguments.only in (None, "virtual"):
        logging.disable(logging.CRITICAL)  # refused requests are counted, not told
        for policy, refuses in ((arguments.policy, True), ("dynamo_kv", False)):
            records = virtual(fleet, policy, objective, trace, arguments.seed, refuses=refuses)
            print(_row(f"virtual clock, {policy}{'' if refuses else ', nobody refused'}", outcome(records, objective)), flush=True)


def _warm_up(url: str, fleet: Fleet, like: Trace) -> None:
    """Requests of the trace's lengths first, one by one at a light rate, that nothing of the trace begins with: enough of them that each
    worker knows how fast it is. Raises RuntimeError if any fails: then nothing is worth measuring."""
    some = like.requests[: _WARM_UP_PER_WORKER * (fleet.prefill + fleet.decode)]
    own = [replace(each, arrival_s=number / _WARM_UP_RATE, block_hashes=(-1 - number,)) for number, each in enumerate(some)]
    trace = Trace("warm-up", own, fleet.max_model_len)
    records = asyncio.run(drive(url, "demo", trace, slowdown=fleet.slowdown, vocab_size=VOCAB_SIZE))
    if failures := {record.failure for record in records if record.failure}:
        raise RuntimeError(f"the first requests failed: {failures}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trace", default="azure_code", choices=["azure_code", "mooncake_conversation"])
    parser.add_argument("--requests", type=int, default=400, help="the trace's first so many")
    parser.add_argument("--rate", type=float, default=22.0, help="requests per second, in the trace's time")
    parser.add_argument("--slowdown", type=float, default=5.0)
    parser.add_argument("--prefill", type=int, default=2, help="workers")
    parser.add_argument("--decode", type=int, default=2, help="workers")
    parser.add_argument("--timing", default="h100-llama-3.1-8b-tp1", help="step times, by name")
    parser.add_argument("--ttft-s", type=float, default=0.5)
    parser.add_argument("--tpot-s", type=float, default=0.02)
    parser.add_argument("--policy", default="baton", help="Baton's")
    parser.add_argument("--seed", type=int, default=1, help="spreads Mooncake's requests over their ticks")
    parser.add_argument("--only", choices=["dynamo", "baton", "virtual"], help="that system only")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "peers")
    parser.add_argument("--python", default=shutil.which("python3.11") or sys.executable, help="makes Dynamo's environment")
    return parser.parse_args()


def _trace(name: str, requests: int, rate: float, max_model_len: int, seed: int) -> Trace:
    if name == "azure_code":
        whole = azure(ROOT / "benchmarks/traces/azure_code.csv.xz")
    else:
        whole = mooncake(ROOT / "benchmarks/traces/mooncake_conversation.jsonl.xz", random.Random(seed))
    fit = [request for request in whole.requests if request.prompt_tokens + request.output_tokens < max_model_len]
    return replace(whole, requests=fit).at_rate(rate, requests)


def _described(trace: Trace) -> str:
    count = len(trace.requests)
    prompt = sum(request.prompt_tokens for request in trace.requests) / count
    output = sum(request.output_tokens for request in trace.requests) / count
    return f"{trace.name}: {count} requests, {trace.rate or 0.0:.2f}/s, on average {prompt:.0f} tokens in and {output:.0f} out"


def _row(name: str, run: Outcome) -> str:
    def spread(quantiles: list[float], scale: float) -> str:
        return " / ".join(f"{scale * quantiles[part]:.2f}" for part in (50, 90, 99)) if quantiles else "none"

    late = f"{run.late_ttft}, {run.late_tpot}, {run.late_both}"
    good = f"{run.good} of {run.offered} ({run.share:.1%})"
    return f"| {name} | {good} | {spread(run.ttft_s, 1)} | {spread(run.tpot_s, 1000)} | {late} | {run.failed} |"


def _say_failures(records: list[Record]) -> None:
    for reason in sorted({record.failure for record in records if record.failure})[:5]:
        print(f"failed: {reason}", file=sys.stderr)


@contextmanager
def _said(name: str) -> Iterator[None]:
    began_s = time.monotonic()
    print(f"{time.strftime('%H:%M:%S')}  {name}", file=sys.stderr, flush=True)
    yield
    print(f"{time.strftime('%H:%M:%S')}  {name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
