"""``baton plan MODEL``: which GPUs, in which roles, for a model, a workload and promises; no GPU is needed to ask."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.plan.quantities import count, gpu, positive, price, seconds, share

if TYPE_CHECKING:
    from deploy.plan.answer import Answer
    from deploy.plan.question import Question
    from deploy.progress import Progress
    from engine.performance.plan.workload import Workload
    from simulation.traces import Trace

EXAMPLES = """\
examples:
  baton plan llama-3.1-70b --gpu h100 --gpus 16 --isl 2048 --osl 256 --ttft 1s --tpot 30ms
                                                what keeps these promises for the most requests on 16 H100
  baton plan llama-3.1-70b --gpu h100 --rate 20 --isl 8k --osl 500 --ttft 2s --tpot 40ms -o plan.yaml
                                                the smallest that carries 20 requests per second, ready for `baton up` or `serve deploy`
  baton plan /models/mine --gpu h100:16 --gpu l40s:32 --by price --price l40s=0.90 --isl 4k --osl 300 --ttft 2s --tpot 50ms
                                                a config.json of your own; two kinds of GPUs, as many of each as there are
  baton plan qwen3-32b --gpu h200 --gpus 8 --trace requests.jsonl --ttft 2s --tpot 40ms --check
                                                lengths and rate of recorded traffic; then the best of it in the simulator
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="which GPUs, in which roles, keep promises for a model and a workload; needs no GPU",
        description="Ranks set-ups of workers by a performance model of the model and the GPUs: how many for prompts and for answers, how "
        "they are split, or whether to have two roles at all. docs/planning.md explains what it prints and how far to trust it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="one that comes with Baton, or its weights' name on the hub; a folder with a config.json, such a file, or a hub name in the "
        "local cache",
    )
    parser.add_argument(
        "--gpu",
        type=gpu,
        action="append",
        default=[],
        metavar="NAME[:N]",
        help="a kind of GPU, perhaps N of them at most; again for another kind, which a role may have for itself. FILE#NAME is yours",
    )
    parser.add_argument("--gpus", type=count, metavar="N", help="GPUs in all")
    work = parser.add_argument_group("the workload")
    work.add_argument("--isl", type=count, metavar="TOKENS", help="of a prompt; 8k is 8192")
    work.add_argument("--osl", type=count, metavar="TOKENS", help="of an answer")
    work.add_argument(
        "--hit-rate", type=share, metavar="SHARE", help="of prompt tokens found in a cache (default: 0, or what the trace's repeat)"
    )
    work.add_argument(
        "--rate", type=positive, metavar="PER_S", help="requests per second to be carried: also finds the smallest set-up that does"
    )
    work.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="recorded requests instead: their lengths, their repetitions, and their rate unless --rate says another",
    )
    work.add_argument("--format", choices=("mooncake", "azure", "csv", "jsonl"), help="of the trace (default: guessed)")
    work.add_argument(
        "--cache-tokens", type=count, metavar="N", help="room for the trace's prompts in all caches together (default: nothing is dropped)"
    )
    asked = parser.add_argument_group("the promises")
    asked.add_argument("--ttft", type=seconds, required=True, metavar="TIME", help="to the first token: 1s, 500ms")
    asked.add_argument("--tpot", type=seconds, required=True, metavar="TIME", help="per token after it: 30ms")
    asked.add_argument("--share", type=share, default=0.9, metavar="SHARE", help="of requests that both are promised to (default: 0.9)")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--by",
        choices=("goodput", "price"),
        default="goodput",
        help="what is best: most requests, or least money per token (default: goodput)",
    )
    how.add_argument(
        "--price", type=price, action="append", default=[], metavar="GPU=DOLLARS", help="per hour, instead of the known on-demand price"
    )
    how.add_argument(
        "--link-gbps", type=positive, metavar="GBPS", help="network of each GPU, gigabits per second (default: of its data sheet)"
    )
    how.add_argument("--precision", metavar="BITS", help="such as w8a8kv8 (default: as the model was published)")
    how.add_argument("--tp", type=_sizes, default=(1, 2, 4, 8), metavar="N,N", help="tensor parallel sizes to look at (default: 1,2,4,8)")
    how.add_argument("--theory", action="store_true", help="GPUs at their limits, not as near to them as vLLM was measured to come")
    out = parser.add_argument_group("what comes out")
    out.add_argument("--top", type=count, default=6, metavar="N", help="set-ups shown (default: 6)")
    out.add_argument("--json", action="store_true", help="as JSON, all of them")
    out.add_argument("--svg", type=Path, metavar="DIR", help="pictures: rooflines, and what promises per token cost")
    out.add_argument("-o", "--output", type=Path, metavar="FILE", help="a Serve config file for the best set-up, ready to be deployed")
    out.add_argument("--pick", type=count, default=1, metavar="N", help="for that file: the set-up with this number in the table instead")
    out.add_argument(
        "--check", action="store_true", help="run the best set-ups in the simulator, and say how far off the prediction is (a minute or so)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from core.errors import ConfigError
    from deploy.progress import Progress

    progress = Progress()
    try:
        return _run(arguments, progress)
    except ConfigError as error:
        progress.end()
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise  # nobody reads what is printed: deploy/cli.py's business
    except OSError as error:
        progress.end()
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    finally:
        progress.end()


def _run(arguments: argparse.Namespace, progress: Progress) -> int:
    """The answer is printed whatever becomes of files and simulations; what is wrong with these is said in the end."""
    from deploy.plan.answer import answer
    from deploy.plan.faults import Faults
    from deploy.plan.files import draw, write_configuration
    from deploy.plan.text import text
    from deploy.plan.told import told

    progress.wait_for("reading the model")
    found = answer(question_of(arguments), progress.wait_for)
    report = told(found)
    faults = Faults()
    try:
        if arguments.svg is not None:
            faults.of(draw, found, arguments.svg, progress)
        if arguments.output is not None:
            faults.of(write_configuration, found, arguments.pick, arguments.output, progress)
        progress.wait_for("")
        if not arguments.json:
            print(text(found, arguments.top), flush=True)
        if arguments.check:
            report["checked"] = faults.of(_check, found, progress, is_shown=not arguments.json)
    finally:
        if arguments.json:
            print(json.dumps(report, indent=2), flush=True)
    faults.refuse()
    return 0 if found.carries else 1


def question_of(arguments: argparse.Namespace) -> Question:
    """Raises ConfigError that says all that does not go together, the model first."""
    from deploy.plan import files
    from deploy.plan.faults import Faults
    from deploy.plan.names import gpus_by_name, model_name, prices_by_name
    from deploy.plan.question import Question, look_at
    from engine.performance.plan.workload import Objectives

    faults = Faults()
    is_rated = arguments.rate is not None or arguments.trace is not None
    model, gpus, prices = model_name(arguments.model), gpus_by_name(faults, arguments.gpu), prices_by_name(faults, arguments.price)
    by_price = arguments.by == "price"
    look_at(
        faults,
        model,
        gpus,
        arguments.gpus,
        prices,
        is_rated=is_rated,
        by_price=by_price,
        precision=arguments.precision,
    )
    work = faults.of(_work_of, arguments)
    files.look_at(faults, arguments.output, arguments.svg)
    if arguments.output is not None:
        files.look_at_hardware(faults, gpus)
    faults.refuse()
    assert work is not None
    workload, trace = work
    rate = arguments.rate or (trace.rate if trace is not None else None)
    return Question(
        model=model,
        gpus=gpus,
        most_gpus=arguments.gpus,
        workload=workload,
        asked=Objectives(arguments.ttft, arguments.tpot, arguments.share),
        rate_per_s=rate,
        link_gbps=arguments.link_gbps,
        prices_per_h=prices,
        by_price=by_price,
        precision=arguments.precision,
        tps=arguments.tp,
        is_calibrated=not arguments.theory,
        trace=trace,
    )


def _work_of(arguments: argparse.Namespace) -> tuple[Workload, Trace | None]:
    """And the trace it was made of, if there is one. Raises ConfigError."""
    import random

    from core.errors import ConfigError
    from deploy.plan.traffic import workload_of
    from engine.performance.plan.workload import Workload
    from simulation.trace_files import read_trace

    if arguments.trace is not None:
        if arguments.isl or arguments.osl:
            raise ConfigError("lengths are those of the trace; leave out --isl and --osl, or --trace", "--trace")
        trace = read_trace(arguments.trace, random.Random(0), arguments.format)
        return workload_of(trace, arguments.hit_rate, arguments.cache_tokens), trace
    if arguments.isl is None or arguments.osl is None:
        raise ConfigError("say how long prompts and answers are (--isl 2048 --osl 256), or give requests (--trace FILE)", "--isl, --osl")
    return Workload(arguments.isl, arguments.osl, arguments.hit_rate or 0.0), None


def _check(found: Answer, progress: Progress, is_shown: bool) -> list[object]:
    from deploy.plan.check import check, table_of

    checked = check(found, progress.wait_for)
    progress.wait_for("")
    if is_shown:
        print("\n" + "\n".join(table_of(found, checked)))
    return [each.told() for each in checked]


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({count(part) for part in text.split(",")}))
