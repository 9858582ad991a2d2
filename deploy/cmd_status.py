"""``baton status``: pools, workers, their roles, load, addresses and ages."""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

from deploy.of_models import add_model, of_each, of_model, trouble

EXAMPLES = """\
examples:
  baton status                                  what runs on this machine
  baton status --url http://router:8000         what a router elsewhere belongs to
  baton status --model NAME                     of several models, this one
  baton status --json                           for programs
  BATON_API_KEY=... baton status                where the routers ask for a key
"""
API_KEY = "BATON_API_KEY"
"""A variable, not an option: what is typed can be read in the list of processes."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "status",
        help="pools, workers, load, addresses, ages",
        description="Asks a router what its controller knows. Exits with 1 if any pool is short of ready workers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="a router's address (default: that of the running `baton up`)")
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    asked = asked_router(arguments.url, of_model("status", arguments.model))
    if asked is None:
        return 1
    url, told = asked
    each = of_each(told)
    print(json.dumps(told, indent=2) if arguments.json else "\n\n".join(_shown(name, status, url) for name, status in each.items()))
    return 0 if all(map(_complete, each.values())) else 1


def _shown(name: str, status: dict[str, Any], url: str) -> str:
    return f"{name}: {trouble(status)}" if trouble(status) else table(status, url)


def _complete(status: dict[str, Any]) -> bool:
    """Whether every pool has the ready workers it is to have."""
    if trouble(status):
        return False
    ready = {role: sum(w["role"] == role and w["state"] == "ready" for w in status["workers"]) for role in status["wanted"]}
    return all(ready[role] >= wanted for role, wanted in status["wanted"].items())


_HINTS = {
    404: "; is there such a model? /v1/models says which are served",
    401: f"; put a key the routers know into {API_KEY}",
    503: "; the controller does not answer, requests are served all the same: try again in a moment",
}


def asked_router(url: str | None, what: str) -> tuple[str, dict[str, Any]] | None:
    """The router's address, that of the running `baton up` where none is given, and its answer; None where there is none, which is said."""
    from deploy import run_state

    if url is None:
        state = run_state.read()
        if state is None:
            print("nothing of yours is up on this machine; start it with `baton up FILE`, or name a router: --url", file=sys.stderr)
            return None
        url = state.url
    if not url.startswith(("http://", "https://")):
        print(f"{url}: a router's address begins with http:// or https://, like http://127.0.0.1:8000", file=sys.stderr)
        return None
    try:
        return url, ask(url, what)
    except urllib.error.HTTPError as error:
        print(f"{url}: {error.code} {error.reason}{_HINTS.get(error.code, '')}", file=sys.stderr)
    except (urllib.error.URLError, TimeoutError, json.JSONDecodeError) as error:
        print(f"{url} does not answer ({error}); is it still starting? See the terminal or log of `baton up`", file=sys.stderr)
    return None


def ask(url: str, what: str = "status") -> dict[str, Any]:
    """What a router's controller knows. Raises urllib's errors, TimeoutError and JSONDecodeError."""
    request = urllib.request.Request(f"{url.rstrip('/')}/v1/baton/{what}")
    if key := os.environ.get(API_KEY):
        request.add_header("authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        status: dict[str, Any] = json.load(answer)
    return status


def table(status: dict[str, Any], url: str) -> str:
    """The status for people."""
    columns = ("worker", "role", "state", "running", "waiting", "KV used", "leased", "age", "restarts", "address", "node")
    rows = [columns, *(_row(worker) for worker in sorted(status["workers"], key=lambda w: (w["role"] != "prefill", w["worker"])))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    pools = ", ".join(
        f"{role} {sum(w['role'] == role and w['state'] == 'ready' for w in status['workers'])}/{wanted} ready"
        for role, wanted in status["wanted"].items()
    )
    return "\n".join([f"{status['app']}: {status['model']} at {url}; {pools}", "", *lines])


def _row(worker: dict[str, Any]) -> tuple[str, ...]:
    blocks, free = worker["num_blocks"], worker["free_blocks"]
    return (
        worker["worker"],
        worker["role"],
        worker["state"] if worker["state"] != "starting" else f"starting: {worker['phase']}",
        str(worker["running"]),
        str(worker["waiting"]),
        f"{100 * (blocks - free) / blocks:.0f} %" if blocks else "-",
        f"{worker['leased_blocks']} blocks" + (f", {worker['stranded_blocks']} stranded" if worker["stranded_blocks"] else ""),
        _age(worker["age_s"]),
        str(worker["restarts"]),
        worker["address"] or "-",
        worker["node"] or "-",
    )


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
