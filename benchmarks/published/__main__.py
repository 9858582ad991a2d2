"""The simulator beside what others measured: ``python -m benchmarks.published``. docs/simulator.md has the figures.

Simulates every row of benchmarks/data/disaggregated_measured.csv, and then every ratio of prefill to decode for the hardest question in it.
Nothing is calibrated on these rows. The ratios are asked for once more at a pace that was found on rows of another GPU, and so are the
rows of the GPU in question. Takes half an hour of one core; results are kept in --cache, so what was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from math import inf
from pathlib import Path

from benchmarks.published.deployment import Deployment, UnexpressedError, expressed
from benchmarks.published.load import part
from benchmarks.published.pace import Pace, find_pace
from benchmarks.published.ratio import divisions
from benchmarks.published.report import Compared, divisions_table, groups_table, left_out_table, rows_table
from benchmarks.published.rows import FILE, Row, best, read
from benchmarks.published.runs import Runs, say

_CACHE = Path(__file__).parents[2] / "build" / "published.jsonl"
_HARD_FAMILY = "DeepSeek-V3 fp8 h200_sxm trtllm"
"""One model, GPU and engine of which the best ratio is opposite for long and for short prompts."""
_PACE_FAMILY = "DeepSeek-V3 fp8 b200_sxm trtllm"
"""The same model and engine on another GPU with as many in a node: none of its rows is among those that are asked about."""
_BUSY_CLIENTS = 128
"""With fewer, what is not simulated is most of the time to the first token."""


def main() -> None:
    arguments = _arguments()
    try:
        rows, runs = read(arguments.file), Runs(arguments.cache)
    except (OSError, ValueError) as error:
        sys.exit(f"python -m benchmarks.published: {error}")
    if arguments.only != "ratios":
        _rows(rows, runs, arguments.most_tokens)
    if arguments.only != "rows":
        hard = [row for row in rows if row.family == _HARD_FAMILY]
        _ratios(hard, runs, Pace())
        pace = _pace([row for row in rows if row.family == _PACE_FAMILY], runs)
        print(f"\nat the pace found on {_PACE_FAMILY}: prompts {pace.prefill:g}, answers {pace.decode:g} times what the roofline says")
        _ratios(hard, runs, pace)
        paced = [Compared(row, runs.of(pace.of(expressed(row)))) for row in hard]
        print("\n" + rows_table(paced) + "\n\n" + groups_table(paced))


def _rows(rows: list[Row], runs: Runs, most_tokens: float) -> None:
    known: dict[str, Deployment] = {}
    reasons: dict[str, str] = {}
    for row in rows:
        try:
            deployment = expressed(row)
        except UnexpressedError as reason:
            reasons[row.name] = str(reason)
            continue
        simulated = part(deployment)
        if simulated.clients * simulated.output_tokens > most_tokens:
            reasons[row.name] = f"left out by --most-tokens: {simulated.clients:,} clients, whose answers have {row.output_tokens:,} tokens"
            continue
        known[row.name] = deployment
    means = dict(zip(known, runs.of_all(list(known.values())), strict=True))
    compared = [Compared(row, means[row.name]) for row in rows if row.name in means]
    print(f"{len(rows)} rows: {len(compared)} simulated, {len(reasons)} not\n")
    print(groups_table(compared), "\n")
    print(left_out_table(reasons), "\n")
    print(rows_table(sorted(compared, key=lambda one: (one.row.family, one.row.input_tokens, one.row.clients or 0))))


def _pace(rows: list[Row], runs: Runs) -> Pace:
    say("looking for the pace on rows of another GPU")
    busy = {expressed(row): row for row in rows if (row.clients or 0) >= _BUSY_CLIENTS}
    return find_pace([(row, deployment) for deployment, row in busy.items()], runs.of)


def _ratios(rows: list[Row], runs: Runs, pace: Pace) -> None:
    for input_tokens in sorted({row.input_tokens for row in rows}, reverse=True):
        row = best(row for row in rows if row.input_tokens == input_tokens)
        say(f"every ratio for {row.name}")
        print("\n" + divisions_table(row, divisions(row, runs.of, pace)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, default=FILE, help="rows in the form of the one that is here")
    parser.add_argument("--only", choices=["rows", "ratios"], help="one of the two parts")
    parser.add_argument(
        "--most-tokens", type=float, default=inf, help="leaves out rows of which all clients at once ask for more: to save time"
    )
    parser.add_argument("--cache", type=Path, default=_CACHE)
    return parser.parse_args()


if __name__ == "__main__":
    main()
