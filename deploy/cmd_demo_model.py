"""``baton demo-model``: builds the small random model, and prints where it is."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

EXAMPLES = """\
examples:
  baton demo-model                   build it once, in the user's cache
  baton demo-model --out ./model     build it here, e.g. to serve it with plain vLLM for comparison
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "demo-model",
        help="build the small random model that the demo serves",
        description="Builds a Llama of 5 million random weights with its own tokenizer. Downloads nothing. Prints the directory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to put it; default: the user's cache")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from deploy.demo_model import ensure_demo_model

    began = time.monotonic()
    print("building the demo model, a few seconds", file=sys.stderr, flush=True)
    path = ensure_demo_model(arguments.out)
    print(f"ready after {time.monotonic() - began:.1f} s", file=sys.stderr)
    print(path)
    return 0
