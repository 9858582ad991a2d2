"""How far the roofline is from step times and deployments, on models it was not calibrated with: ``python -m benchmarks.roofline``.

``--write`` calibrates with all of them and writes ``engine/performance/roofline/data/calibrated.yaml``, and the picture in the docs.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from timeit import repeat

import msgspec
import yaml

from benchmarks.roofline_data import Sample, deployments, tables
from core.step_model import StepWork
from engine.performance.roofline import efficiency as efficiencies
from engine.performance.roofline.calibrate import calibrate, errors
from engine.performance.roofline.efficiency import THEORETICAL, Efficiency, Share
from engine.performance.roofline.named import roofline_by_name
from engine.performance.roofline.picture import picture

_START = Efficiency(
    linear=Share(0.75, 0.65, 0.85, 3e-6),
    experts=Share(0.6, 0.5, 0.8, 3e-5),
    prefill_attention=Share(0.6, None, 0.8, 5e-6),
    decode_attention=Share(0.6, None, 0.8, 5e-6),
    elementwise=Share(1.0, None, 0.8, 1e-6),
    link=0.8,
    exchange_s=4e-6,
    overlap=3.0,
)
"""What is not in either list below stays so: steps tell too little of it."""
_OF_TABLES = (
    *("linear.compute", "linear.compute_8", "linear.memory", "linear.launch_s", "elementwise.launch_s", "link", "exchange_s", "overlap"),
    *("prefill_attention.compute", "prefill_attention.launch_s", "decode_attention.memory", "decode_attention.launch_s"),
)
_OF_DEPLOYMENTS = ("experts.compute", "experts.compute_8", "experts.memory", "experts.launch_s", "step_s", "exchange_s")
"""What tables do not tell: they have no model with experts, and nothing between operators."""
_CALLS = 200
_STEP_S = 1e-3
"""Where the search for ``step_s`` starts."""
_NOT_STEADY = "llama-3.1-8b"
"""Its deployments are shown but not learnt from: as fast as if nobody else's prompts were computed meanwhile."""
_PICTURE = Path(__file__).parents[1] / "docs" / "performance-model.svg"
_TOP = """\
# Written by `python -m benchmarks.roofline --write` from the H100 and H200 step times (engine/performance/data/h100_h200.csv) and measured
# deployments of vLLM (benchmarks/data/vllm_deployments.csv). What each means: efficiency.py. How well it does: docs/performance-model.md.
"""
_WORKS = {
    "prefill": StepWork(prefill_tokens=2000, prefill_squares=2000**2),
    "decode": StepWork(batch=100, context_tokens=100_000),
    "mixed": StepWork(2000, 2000**2, 100, 100_000),
}


def fitted(steps: Sequence[Sample], served: Sequence[Sample]) -> Efficiency:
    """Operators from the tables, then what whole deployments add."""
    operators = calibrate([sample.measured for sample in steps], _START, _OF_TABLES)
    start = msgspec.structs.replace(operators, step_s=_STEP_S)
    return calibrate([sample.measured for sample in served if sample.model != _NOT_STEADY], start, _OF_DEPLOYMENTS)


def family(model: str) -> str:
    """Llama-3.1-70B in 8 bits is no other model than in 16."""
    return model.removesuffix("-fp8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--write", action="store_true", help="calibrate with everything and keep it")
    steps, served = tables("h100_h200.csv"), deployments()
    if arguments.parse_args().write:
        _write(fitted(steps, served))
    print("Median and 95th percentile of |predicted - measured| / measured.\n\nStep times, the model not calibrated with:\n")
    held_out = {model: _without(model, steps, served) for model in sorted({family(sample.model) for sample in steps + served})}
    _compare(steps, lambda sample: held_out[family(sample.model)])
    print("\nvLLM's measured times per output token, the model not calibrated with:\n")
    _compare(served, lambda sample: held_out[family(sample.model)])
    print("\nH200 with what H100 alone tells:\n")
    h100 = fitted([sample for sample in steps if sample.gpu == "h100"], [sample for sample in served if sample.gpu == "h100"])
    _compare([sample for sample in steps if sample.gpu == "h200"], lambda _: h100)
    shipped = efficiencies.calibrated()
    print("\nStep times, as shipped (calibrated with all of these):\n")
    _compare(steps, lambda _: shipped)
    print("\nOther GPUs, models and software (Splitwise, 2023), as shipped:\n")
    _compare(tables("splitwise.csv"), lambda _: shipped)
    print("\nStep times, in theory:\n")
    _compare(steps, lambda _: THEORETICAL)
    _speed()


def _without(model: str, steps: Iterable[Sample], served: Iterable[Sample]) -> Efficiency:
    return fitted([sample for sample in steps if family(sample.model) != model], [each for each in served if family(each.model) != model])


def _compare(samples: Sequence[Sample], efficiency: Callable[[Sample], Efficiency]) -> None:
    groups: dict[tuple[str, str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.model, sample.gpu, sample.group].append(sample)
    print("| model | GPU | | points | median | p95 | bias |\n|---|---|---|---|---|---|---|")
    everything: list[float] = []
    for (model, gpu, group), members in sorted(groups.items()):
        found = errors([member.measured for member in members], efficiency(members[0]))
        everything += found
        print(f"| {model} | {gpu} | {group} | {_row(found)} |")
    print(f"| all | | | {_row(everything)} |")


def _row(found: Sequence[float]) -> str:
    sizes = sorted(abs(error) for error in found)
    return f"{len(found)} | {median(sizes):.1%} | {sizes[int(0.95 * (len(sizes) - 1))]:.1%} | {median(found):+.1%}"


def _write(efficiency: Efficiency) -> None:
    values = {
        name: {field: _rounded(value) for field, value in part.items() if value is not None} if isinstance(part, dict) else _rounded(part)
        for name, part in msgspec.to_builtins(efficiency).items()
    }
    path = Path(efficiencies.__file__).parent / "data" / "calibrated.yaml"
    path.write_text(_TOP + yaml.safe_dump(values, sort_keys=False))
    efficiencies.calibrated.cache_clear()
    roofline = roofline_by_name("roofline:h100:llama-3.1-70b:tp4").roofline
    _PICTURE.write_text(picture(roofline, "Llama-3.1-70B on four H100: one GPU's part"))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _speed() -> None:
    print("\n| a step of | us of CPU |\n|---|---|")
    for model, layout in (("llama-3.1-70b", "tp4"), ("gpt-oss-120b", "tp2"), ("deepseek-v3", "tp8")):
        timing = roofline_by_name(f"roofline:h200:{model}:{layout}")
        for kind, work in _WORKS.items():
            best = min(repeat(partial(timing.step_s, work), timer=process_time, number=_CALLS, repeat=20)) / _CALLS
            print(f"| {model}, {kind} | {best * 1e6:.0f} |")


if __name__ == "__main__":
    main()
