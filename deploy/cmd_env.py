"""``baton env``: the environment that Ray needs on every node before it starts, as lines for a shell."""

from __future__ import annotations

import argparse
import os
import shlex

EXAMPLES = """\
examples:
  eval "$(baton env)" && ray start --head         on the head node; likewise on all others
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "env",
        help="what a node's shell needs before `ray start`",
        description="Prints export lines for Serve's HAProxy ingress. `baton up` without --address needs none of this.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from deploy import environment

    before = dict(os.environ)
    environment.prepare(on_one_machine=False)
    for name in sorted(os.environ.keys()):
        if os.environ[name] != before.get(name):
            print(f"export {name}={shlex.quote(os.environ[name])}")
    return 0
