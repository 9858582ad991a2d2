"""``python -m benchmarks.plan_page``, or ``make planning``: runs every ``baton plan`` of docs/planning.md anew, and puts its output there.

Its pictures and its configuration file are what these commands write.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path("docs/planning.md")
_BLOCK = re.compile(r"(?<=```console\n\$ )(baton plan (?:[^\n]*\\\n)*[^\n]*\n).*?(?=```)", re.DOTALL)


def main() -> None:
    PAGE.write_text(_BLOCK.sub(lambda block: block[1] + output(block[1]), PAGE.read_text()))


def output(command: str) -> str:
    """What it prints, without progress. Raises where it fails."""
    arguments = shlex.split(command.replace("\\\n", " "))[1:]
    print(f"baton {shlex.join(arguments)}", file=sys.stderr, flush=True)
    return subprocess.run([sys.executable, "-m", "deploy.cli", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
