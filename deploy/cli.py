"""The ``baton`` command. Each subcommand is a module ``cmd_*.py`` with ``add_parser``; what is slow to import waits until one runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from deploy import (
    cmd_check_config,
    cmd_demo,
    cmd_demo_model,
    cmd_doctor,
    cmd_down,
    cmd_drain,
    cmd_env,
    cmd_leave,
    cmd_plan,
    cmd_relabel,
    cmd_scaling,
    cmd_simulate,
    cmd_status,
    cmd_top,
    cmd_up,
)

COMMANDS = [
    cmd_demo,
    cmd_up,
    cmd_status,
    cmd_top,
    cmd_scaling,
    cmd_drain,
    cmd_relabel,
    cmd_leave,
    cmd_down,
    cmd_check_config,
    cmd_doctor,
    cmd_plan,
    cmd_simulate,
    cmd_env,
    cmd_demo_model,
]

EXAMPLES = """\
examples:
  baton demo                                        see it work on this machine
  baton up deploy/config/cpu-demo.yaml              serve what a file asks for, until Ctrl-C
  baton status                                      who is there, and how busy
  baton top                                         what goes on and why, live
  baton drain --all                                 restart every worker, one by one, without losing a request
  baton relabel prefill-0b11d0 decode               move a worker to the other pool, without a restart
  baton check-config deploy/config/cpu-demo.yaml    is this file right, and what does it ask for?
  baton doctor deploy/config/cpu-demo.yaml          is this machine, or every node of a cluster, fit for it?
  baton plan llama-3.1-70b --gpu h100 --gpus 16 --isl 2k --osl 256 --ttft 1s --tpot 30ms
                                                    which GPUs in which roles? No GPU needed
  baton simulate my.yaml --trace requests.jsonl     what would it do with that traffic? No GPU needed
  baton COMMAND --help                              more, with examples
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="baton",
        description="Serves large language models on Ray, with prefill and decode on separate workers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130  # as shells have it: 128 + SIGINT
    except BrokenPipeError:  # `baton status | head`
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
