"""The planner's choice beside the best of the deployments that others measured: ``python -m benchmarks.roofline_plan``.

Measured: DeepSeek-R1 in 8 bits on H200 with TensorRT-LLM, from InferenceX by way of AIConfigurator's ``silicon_sample.csv`` (Apache-2.0):
the row with the most output tokens per second and GPU of all that were tried, at what it gave.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from engine.performance.plan.engine_kind import EngineKind
from engine.performance.plan.ranking import Ranked, plan
from engine.performance.plan.set_up import candidates
from engine.performance.plan.workload import Objectives, Workload
from engine.performance.roofline.named import roofline_by_name


class Case(msgspec.Struct, frozen=True):
    """A deployment that was measured."""

    input_tokens: int
    gpus: int
    ratio: str
    """GPUs for prompts : for answers."""
    ttft_s: float
    tpot_s: float
    tokens_per_s: float
    """Of output, per GPU."""


_CASES = (Case(8192, 32, "24:8", 3.97, 0.0583, 257.7), Case(1024, 72, "16:56", 4.74, 0.0486, 936.2))
_LAYOUTS = ("tp8", "tp1:ep8")
_BUDGET_TOKENS = 8192
_OUTPUT_TOKENS = 1024
_SHOWN = 3


def main() -> None:
    print("| in / out | | prompts : answers, GPUs | layouts | tokens/s per GPU | TTFT | TPOT |\n|---|---|---|---|---|---|---|")
    for case in _CASES:
        name = f"{case.input_tokens} / {_OUTPUT_TOKENS}"
        print(f"| {name} | measured | {case.ratio} | | {case.tokens_per_s:.0f} | {case.ttft_s:.2f} s | {case.tpot_s * 1e3:.1f} ms |")
        started = time.perf_counter()
        kinds = list(_kinds(case))
        found = plan(candidates(kinds, kinds, kinds, case.gpus), Objectives(case.ttft_s, case.tpot_s))
        seconds = time.perf_counter() - started
        for index, ranked in enumerate(found.ranked[:_SHOWN]):
            print(f"| {name} | predicted, {index + 1}. | {_row(ranked)} |")
        print(f"| {name} | in {seconds:.1f} s | | {found.verdict} | | | |")


def _kinds(case: Case) -> Iterator[EngineKind]:
    for layout in _LAYOUTS:
        roofline = roofline_by_name(f"roofline:h200:deepseek-v3:{layout}").roofline
        yield EngineKind(layout, roofline, Workload(case.input_tokens, _OUTPUT_TOKENS), _BUDGET_TOKENS)


def _row(ranked: Ranked) -> str:
    set_up = ranked.set_up
    prompts = set_up.prefill.gpus * set_up.prefill_workers if set_up.prefill else 0
    layouts = f"{set_up.prefill.name}, {set_up.decode.name}" if set_up.prefill else f"{set_up.decode.name}, both"
    tokens = ranked.goodput_per_gpu * _OUTPUT_TOKENS
    pace = f"{ranked.pace.ttft_s:.2f} s | {ranked.pace.tpot_s * 1e3:.1f} ms"
    return f"{prompts}:{set_up.gpus - prompts} | {layouts} | {tokens:.0f} | {pace}"


if __name__ == "__main__":
    main()
