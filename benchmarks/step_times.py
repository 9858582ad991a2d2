"""The named step times, how well six coefficients say the same, and what a look-up costs: ``python -m benchmarks.step_times``."""

from __future__ import annotations

import time

from core.step_model import StepWork
from engine.performance.fit import relative_errors
from engine.performance.registry import kv_bytes_per_token, names, samples_by_name, step_model_by_name, timing_by_name

_LOOKUPS = 200_000
_WORKS = {
    "prefill": StepWork(prefill_tokens=2000, prefill_squares=2000**2),
    "decode": StepWork(batch=100, context_tokens=100_000),
    "mixed": StepWork(2000, 2000**2, 100, 100_000),
}


def main() -> None:
    print("| name | six coefficients: median error | p95 | KV bytes per token |\n|---|---|---|---|")
    for name in names():
        errors = relative_errors(samples_by_name(name), step_model_by_name(name))
        middle, worse = errors[len(errors) // 2], errors[int(0.95 * (len(errors) - 1))]
        print(f"| `{name}` | {middle:.1%} | {worse:.1%} | {kv_bytes_per_token(name):,} |")
    print("\n| look-up of | us |\n|---|---|")
    timing = timing_by_name("h100-llama-3.1-8b-tp1")
    for kind, work in _WORKS.items():
        started = time.perf_counter()
        for _ in range(_LOOKUPS):
            timing.step_s(work)
        print(f"| {kind} | {(time.perf_counter() - started) / _LOOKUPS * 1e6:.2f} |")


if __name__ == "__main__":
    main()
