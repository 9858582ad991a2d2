"""An answer for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from deploy.plan.answer import LINKS_GBPS, Answer
from engine.performance.plan.engine_kind import EngineKind
from engine.performance.plan.ranking import Ranked

_HEAD = ("", "prompts", "answers", "GPUs", "P:D", "req/s", "per GPU", "tok/s/GPU", "TTFT", "TPOT", "$/Mtok", "full first")


def text(answer: Answer, rows: int) -> str:
    """``rows`` set-ups of each table."""
    return "\n".join(
        line for part in (_asked(answer), _found(answer, rows), _memory(answer), _network(answer), _end(answer)) for line in part
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they have to be; numbers to the right."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    is_number = [all(row[index][:1].isdigit() or row[index] in ("", "-") for row in rows) for index in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = (cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, is_number, strict=True))
        return "  ".join(cells).rstrip()

    return [line(head), *map(line, rows)]


def seconds(value: float) -> str:
    """To three figures, in milliseconds below one second."""
    if math.isinf(value):
        return "-"
    return f"{value:.3g} s" if value >= 0.9995 else f"{value * 1e3:.3g} ms"


def _asked(answer: Answer) -> Iterator[str]:
    question, workload = answer.question, answer.question.workload
    gpus = ", ".join(gpu if count is None else f"{gpu} (at most {count})" for gpu, count in question.gpus.items())
    bits = answer.kinds.whole[0].roofline.setup.precision
    yield f"{question.model} in {bits.weight_bits} bits (KV {bits.kv_bits}) on {gpus}"
    lengths = f"{workload.input_tokens:,} tokens in, {workload.output_tokens:,} out, {workload.hit_rate:.0%} of prompts cached"
    if question.trace is not None:
        lengths = f"{len(question.trace.requests):,} requests of {question.trace.name}: on average {lengths}"
    yield lengths
    asked = question.asked
    yield f"promised to {asked.share:.0%}: {seconds(asked.ttft_s)} to the first token, {seconds(asked.tpot_s)} per token after it"


def _found(answer: Answer, rows: int) -> Iterator[str]:
    question = answer.question
    if question.rate_per_s is not None:
        yield ""
        yield answer.verdict
        if answer.smallest:
            yield ""
            what = "cheapest" if question.by_price else "smallest"
            yield f"The {what} that carry {question.rate_per_s:.4g} requests per second, and what they then give:"
            yield from table(
                (*_HEAD, "at most"), [(*_row(n, each), f"{each.most_per_s:.2f}/s") for n, each in _shown(answer.smallest, rows)]
            )
    yield ""
    at_limit = "" if question.rate_per_s is None else f"At the limit of {answer.stock.gpus} GPUs: "
    yield f"{at_limit}{answer.plan.verdict}"
    yield ""
    yield f"With {answer.stock.gpus} GPUs, each at the highest rate that it keeps the promises for:"
    shown = _shown(answer.plan.ranked, rows)
    if question.rate_per_s is None:
        yield from table(_HEAD, [_row(number, each) for number, each in shown])
    else:  # --pick does not choose from these
        yield from table(_HEAD[1:], [_row(number, each)[1:] for number, each in shown])


def _shown(ranked: Sequence[Ranked], rows: int) -> list[tuple[int, Ranked]]:
    """The best, each with its best steps only, and the best of the other kind where that is not among them."""
    best: dict[tuple[int, str, int, str], tuple[int, Ranked]] = {}
    for number, each in enumerate(ranked, start=1):
        set_up = each.set_up
        first_name = set_up.prefill.name if set_up.prefill is not None else ""
        best.setdefault((set_up.prefill_workers, first_name, set_up.decode_workers, set_up.decode.name), (number, each))
    found = list(best.values())
    others = []
    for is_split in (True, False):
        first = next((each for each in found if (each[1].set_up.prefill is not None) == is_split), None)
        if first is not None and first not in found[:rows]:
            others.append(first)
    return [*found[:rows], *others]


def _row(number: int, ranked: Ranked) -> tuple[str, ...]:
    set_up, price = ranked.set_up, ranked.price_per_million_tokens
    prompts = f"{set_up.prefill_workers} x {_kind(set_up.prefill)}" if set_up.prefill is not None else "(both)"
    ratio = f"{set_up.prefill_gpus}:{set_up.gpus - set_up.prefill_gpus}" if set_up.prefill is not None else "-"
    return (
        str(number),
        prompts,
        f"{set_up.decode_workers} x {_kind(set_up.decode)}",
        str(set_up.gpus),
        ratio,
        f"{ranked.rate_per_s:.2f}",
        f"{ranked.goodput_per_gpu:.3f}",
        f"{ranked.tokens_per_s_per_gpu:.0f}",
        seconds(ranked.pace.ttft_s),
        seconds(ranked.pace.tpot_s),
        f"{price:.2f}" if price else "-",
        ranked.bound_by,
    )


def _kind(kind: EngineKind) -> str:
    return f"{kind.name}, {kind.budget_tokens}"


def _memory(answer: Answer) -> Iterator[str]:
    yield ""
    yield "Memory of one GPU of each, in GB, and what a worker has room for:"
    kinds: dict[str, EngineKind] = {}
    for ranked in (answer.split, answer.whole):
        if ranked is not None:
            for kind in (ranked.set_up.prefill, ranked.set_up.decode):
                if kind is not None:
                    kinds.setdefault(_kind(kind), kind)
    head = ("engine, tokens a step", "usable", "weights", "activations", "reserved", "KV", "KV tokens", "largest batch")
    yield from table(head, [(name, *_memory_row(kind)) for name, kind in kinds.items()])
    if answer.kinds.unfit:
        yield "Left out: " + "; ".join(answer.kinds.unfit) + "."


def _memory_row(kind: EngineKind) -> tuple[str, ...]:
    memory = kind.memory
    parts = (memory.usable_bytes, memory.weight_bytes, memory.activation_bytes, memory.reserved_bytes, memory.kv_bytes)
    return (*(f"{part / 1e9:.1f}" for part in parts), f"{kind.kv_tokens:,}", str(kind.max_batch * kind.groups))


def _network(answer: Answer) -> Iterator[str]:
    ranked = answer.split
    if ranked is None or ranked.set_up.prefill is None:
        return
    yield ""
    needed = ranked.gpu_bytes_per_s * 8.0 / 1e9
    yield (
        f"KV: {ranked.set_up.prefill.kv_bytes / 1e6:,.0f} MB for each prompt. {ranked.set_up} need {needed:.3g} Gb/s of each GPU's port on "
        f"average; over {answer.question.link.gpu_bytes_per_s * 8 / 1e9:g} Gb/s a hand-over takes {seconds(ranked.handover_s)}."
    )
    yield "Over other networks, Gb/s for each GPU:"
    yield from table(("network", "req/s", "hand-over", "TPOT", "full first"), [_over(answer, ranked, gbps) for gbps in LINKS_GBPS])
    pays = answer.link_that_pays_gbps()
    if pays is not None:
        yield f"Below {pays:.3g} Gb/s workers that do both carry more: hand-overs queue, and answers wait for their second token."


def _over(answer: Answer, ranked: Ranked, gbps: float) -> tuple[str, ...]:
    found = answer.over(ranked, gbps)
    if found is None:
        return (f"{gbps:g}", "0", "-", "-", "link: no promise is kept")
    return (f"{gbps:g}", f"{found.rate_per_s:.2f}", seconds(found.handover_s), seconds(found.pace.tpot_s), found.bound_by)


def _end(answer: Answer) -> Iterator[str]:
    yield ""
    yield f"Found in {answer.took_s:.1f} s, in closed form: --check runs the best through the simulator."
