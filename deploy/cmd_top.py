"""``baton top``: the console in a terminal."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import urllib.error
from typing import Any

EXAMPLES = """\
examples:
  baton top                                     what goes on, anew every second, until q or Ctrl-C
  baton top --once                              one frame, for a file or a pipe
  baton top --url http://router:8000            of a cluster elsewhere
  baton top --model NAME                        of several models, this one (default: the first)
  BATON_API_KEY=... baton top                   where the routers ask for a key
"""
_EVERY_S = 1.0
_LOOK_S = 0.2
"""Whether there is something new, or another size to draw it in."""
_WIDTH_OF_PIPES = 100


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "top",
        help="pools, queues, hand-offs, decisions and scaling, live",
        description="Shows what a router's console shows, in a terminal. q or Ctrl-C ends it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="a router's address (default: that of the running `baton up`)")
    parser.add_argument("--model", metavar="NAME", help="of several models in one application, this one (default: the first)")
    parser.add_argument("--once", action="store_true", help="one frame; also what a pipe gets")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from deploy.cmd_status import asked_router
    from deploy.of_models import of_model
    from deploy.top_frame import frame

    what = of_model("console", arguments.model)
    asked = asked_router(arguments.url, what)
    if asked is None:
        return 1
    url, state = asked
    if arguments.once or not sys.stdout.isatty():
        console = Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_PIPES)
        console.print(frame(state))
        return 0
    try:
        _live(url, what, state)
    except KeyboardInterrupt:  # as good an end as q
        pass
    return 0


def _live(url: str, what: str, first: dict[str, Any]) -> None:
    """Until q is pressed."""
    from rich.console import Console
    from rich.live import Live

    from deploy.terminal_keys import single_keys
    from deploy.top_frame import frame

    console, looking = Console(), _Looking(url, what, first)
    with single_keys() as pressed, Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        drawn: object = None
        while pressed(_LOOK_S) not in {"q", "Q"}:
            state, trouble = looking.now
            if drawn != (state["at"], trouble, console.size):
                drawn = (state["at"], trouble, console.size)
                live.update(frame(state, console.size, trouble), refresh=True)


class _Looking:
    """Asks the router on a thread of its own: one that does not answer keeps nobody from leaving."""

    def __init__(self, url: str, what: str, first: dict[str, Any]) -> None:
        from deploy.top_routers import TopRouters

        self._url = url
        self._what = what
        self._routers = TopRouters()
        self.now = (self._routers.add(first, time.monotonic()), "")
        """The state that is known, and why there is no newer one."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        from deploy.cmd_status import ask

        while True:
            time.sleep(_EVERY_S)
            try:
                self.now = (self._routers.add(ask(self._url, self._what), time.monotonic()), "")
            except urllib.error.HTTPError as error:
                self.now = (self.now[0], f"it answers {error.code} {error.reason}")
            except (OSError, json.JSONDecodeError) as error:
                self.now = (self.now[0], str(getattr(error, "reason", error)))
