"""``make bench``: every measurement, side by side in one run, into docs/benchmarks.md. Takes about a quarter of an hour on two cores."""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from benchmarks.cpu import us_per_token
from benchmarks.idle import idle_cpu_percent
from benchmarks.load import Run, run
from benchmarks.servers import ROOT, bare_vllm, baton, plain_instant

CONCURRENCIES = (1, 8, 32)
INSTANT_POOLS = {
    "engine": {
        "kind": "simulated",
        "simulated": {
            "timing": {"type": "constant", "seconds": 0.0},
            "vocab_size": 4096,
            "num_blocks": 65536,
            "max_num_seqs": 512,
            "special_token_ids": list(range(16)),
        },
    },
    "kv_transfer": {"backend": "simulated"},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="measured runs of each pair, in turn (default: 3)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md")
    arguments = parser.parse_args()
    sections = [_real_engines(arguments.repeats), _instant_engines(arguments.repeats)]
    arguments.output.write_text(_page(sections))
    say(f"written: {arguments.output}")


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def _real_engines(repeats: int) -> str:
    say("starting a plain vLLM server and Baton 1P1D, both on real engines")
    with baton() as ours:
        say("measuring what idle workers cost")
        idle = idle_cpu_percent()
        with bare_vllm() as plain:
            measured = {c: _in_turn({"plain": plain, "baton": ours}, c, repeats, input_tokens=256, output_tokens=32) for c in CONCURRENCIES}
    rows = [
        f"| {c} | {_median(m['plain'], _ttft):.1f} | {_median(m['baton'], _ttft):.1f} | **{_ratio(m, _ttft):.2f}** "
        f"| {_median(m['plain'], _tpot):.2f} | {_median(m['baton'], _tpot):.2f} | **{_ratio(m, _tpot):.2f}** "
        f"| {_median(m['plain'], _rate):.0f} | {_median(m['baton'], _rate):.0f} | **{_ratio(m, _rate):.2f}** |"
        for c, m in measured.items()
    ]
    idle_rows = [f"| {name} | {percent:.1f} |" for name, percent in sorted(idle.items())]
    return "\n".join(
        [
            "## One plain vLLM server beside Baton with one prefill and one decode worker",
            "",
            "Real engines, 256 random prompt tokens, 32 output tokens, greedy; medians in ms, ratios Baton / plain as the median over",
            f"{repeats} pairs of runs in turn. Both share the same two cores, so Baton's two engines have half a machine each.",
            "",
            "| streams | TTFT plain | TTFT Baton | ratio | TPOT plain | TPOT Baton | ratio | tokens/s plain | tokens/s Baton | ratio |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "## Idle",
            "",
            "CPU of each worker with its engine process, over 20 s with nothing to do. Target: under 5 % of a core.",
            "",
            "| worker | % of a core |",
            "|---|---|",
            *idle_rows,
            "",
        ]
    )


def _instant_engines(repeats: int) -> str:
    say("starting the plain vLLM server and Baton, both on instant engines")
    size = {"input_tokens": 64, "output_tokens": 256}
    with plain_instant() as plain:
        say("measuring which process spends the CPU")
        plain_cpu = _cpu(plain, **size)
        with baton(INSTANT_POOLS) as ours:
            measured = {c: _in_turn({"plain": plain, "baton": ours}, c, repeats, **size) for c in CONCURRENCIES}
    with baton(INSTANT_POOLS) as ours:
        baton_cpu = _cpu(ours, **size)
    rows = [
        f"| {c} | {_median(m['plain'], _rate):.0f} | {_median(m['baton'], _rate):.0f} | **{_ratio(m, _rate):.2f}** "
        f"| {_median(m['plain'], _ttft):.1f} | {_median(m['baton'], _ttft):.1f} |"
        for c, m in measured.items()
    ]
    return "\n".join(
        [
            "## The stack itself: instant engines",
            "",
            "Engines that take no time (`engine/simulated.py`): what is left is the server, the ingress, the router and the data plane.",
            "Plain is the same vLLM server in front of one instant engine in a process of its own, over vLLM's own engine sockets, without",
            "ingress. 64 prompt tokens, 256 output tokens.",
            "",
            "| streams | tokens/s plain | tokens/s Baton | ratio | TTFT plain ms | TTFT Baton ms |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "Where the CPU goes, in microseconds per token at 32 streams, the client's start included for what runs all the time:",
            "",
            "| plain | | Baton | |",
            "|---|---|---|---|",
            *_side_by_side(plain_cpu, baton_cpu),
            "",
        ]
    )


def _cpu(url: str, **size: int) -> Mapping[str, float]:
    requests = 1024

    def work() -> int:
        run(url, concurrency=32, requests=requests, seed=7, **size)
        return requests * size["output_tokens"]

    run(url, concurrency=32, requests=64, seed=8, **size)
    return us_per_token(work)


def _side_by_side(left: Mapping[str, float], right: Mapping[str, float]) -> list[str]:
    cells = [[f"{title} | {spent:.1f}" for title, spent in side.items() if spent >= 0.05] for side in (left, right)]
    return [f"| {one} | {other} |" for one, other in itertools.zip_longest(*cells, fillvalue=" | ")]


def _in_turn(
    urls: Mapping[str, str], concurrency: int, repeats: int, *, input_tokens: int, output_tokens: int, per_stream: int = 4
) -> dict[str, list[Run]]:
    """``repeats`` runs of each system, one after the other, the same prompts within a pair. One unmeasured run of each first."""
    requests = max(24, per_stream * concurrency)
    runs: dict[str, list[Run]] = {name: [] for name in urls}
    for repeat in range(-1, repeats):
        for name, url in urls.items():
            seed = 1000 * concurrency + repeat
            done = run(url, concurrency=concurrency, requests=requests, input_tokens=input_tokens, output_tokens=output_tokens, seed=seed)
            told = f"TTFT {done.ttft_ms:.1f} ms, TPOT {done.tpot_ms:.2f} ms, {done.tokens_per_s:.0f} tokens/s"
            say(f"{name:<6} {concurrency:>3} streams: {told}")
            if repeat >= 0:
                runs[name].append(done)
    return runs


def _ttft(done: Run) -> float:
    return done.ttft_ms


def _tpot(done: Run) -> float:
    return done.tpot_ms


def _rate(done: Run) -> float:
    return done.tokens_per_s


def _median(runs: list[Run], figure: Callable[[Run], float]) -> float:
    return statistics.median(map(figure, runs))


def _ratio(measured: Mapping[str, list[Run]], figure: Callable[[Run], float]) -> float:
    pairs = zip(measured["baton"], measured["plain"], strict=True)
    return statistics.median(figure(ours) / figure(plain) for ours, plain in pairs)


def _page(sections: list[str]) -> str:
    cores, gib = psutil.cpu_count(), psutil.virtual_memory().total / 2**30
    head = [
        "# Benchmarks",
        "",
        "Made by `make bench`, which writes this page. Ratios compare runs made in turn, side by side; absolute values are this",
        "machine's and no promise for another.",
        "",
        f"Machine: {cores} cores, {gib:.0f} GiB, {platform.system()} {platform.machine()}, no GPU. Model: the demo model, 5 M parameters,",
        f"float32. Client: vLLM's own benchmark client, on the same cores. {time.strftime('%Y-%m-%d')}.",
        "",
    ]
    notes = Path(__file__).parent / "notes.md"
    return "\n".join([*head, *sections, notes.read_text() if notes.exists() else ""])


if __name__ == "__main__":
    main()
