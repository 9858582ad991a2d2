"""Two pictures of an answer: the roofline of the engines that were chosen, and what promises per token cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from deploy.plan.answer import Answer
from engine.performance.plan.engine_kind import EngineKind
from engine.performance.plan.ranking import Ranked, plan
from engine.performance.plan.search import Search
from engine.performance.roofline.picture import picture
from simulation.svg import Line, Plot

_PROMISES = (0.4, 0.5, 0.65, 0.8, 1.0, 1.25, 1.6, 2.0, 3.0)
"""Times per token that are looked at, in parts of the one asked for."""


def pictures(answer: Answer) -> Iterator[tuple[str, str]]:
    """File names and SVG, one after the other, as each takes a while."""
    for kind in _engines(answer.chosen[0]):
        yield f"roofline-{kind.name.replace(' ', '-')}.svg", roofline(answer, kind)
    yield "pareto.svg", pareto(answer)


def roofline(answer: Answer, kind: EngineKind) -> str:
    """Where prompts and answers of the workload sit: of the workload's own length, and of a few others."""
    workload = answer.question.workload
    prompts = sorted({128, 1024, 8192, workload.input_tokens})
    batches = sorted({1, 8, 32, 128, 512, round(answer.chosen[0].pace.batch) or 1})
    return picture(kind.roofline, f"{answer.question.model} on {kind.name}", prompts, batches, round(workload.context_tokens))


def pareto(answer: Answer) -> str:
    """The most output tokens per GPU that set-ups of either kind make at several promised times per token."""
    question, found = answer.question, points(answer)
    names = {"two roles": True, "workers that do both": False}
    lines = [Line(name, line, is_bold=is_split) for name, is_split in names.items() if (line := found[is_split])]
    return Plot(
        f"{question.model}: {question.workload.input_tokens:,} in, {question.workload.output_tokens:,} out, on {answer.stock.gpus} GPUs",
        "tokens per second for each client",
        "tokens per second per GPU",
        lines,
        mark_x=1.0 / question.asked.tpot_s,
    ).svg()


def points(answer: Answer) -> Mapping[bool, list[tuple[float, float]]]:
    """By whether there are two roles: (tokens per second for each client, tokens per second per GPU)."""
    question, kinds = answer.question, answer.kinds
    # Which engines are best for prompts hardly depends on what is promised per token.
    prefill = tuple(dict.fromkeys(each.set_up.prefill for each in answer.plan.ranked if each.set_up.prefill is not None))[:2]
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for part in _PROMISES:
        asked = msgspec.structs.replace(question.asked, tpot_s=question.asked.tpot_s * part)
        ranked = plan(Search(prefill, kinds.decode, kinds.whole, answer.stock, asked, question.link).balanced(), asked).ranked
        for is_split, line in found.items():
            best = max((each.tokens_per_s_per_gpu for each in ranked if (each.set_up.prefill is not None) == is_split), default=0.0)
            line.append((1.0 / asked.tpot_s, best))
    for line in found.values():
        line.sort()
    return {is_split: line if any(y for _, y in line) else [] for is_split, line in found.items()}


def _engines(ranked: Ranked) -> list[EngineKind]:
    """Those that differ by more than their steps."""
    kinds = [kind for kind in (ranked.set_up.prefill, ranked.set_up.decode) if kind is not None]
    return list({kind.name: kind for kind in kinds}.values())
