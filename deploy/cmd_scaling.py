"""``baton scaling``: the autoscaler's newest plans, with what they were made from."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from typing import Any

from deploy.cmd_status import asked_router
from deploy.of_models import add_model, of_each, of_model, trouble

EXAMPLES = """\
examples:
  baton scaling                                 the newest plan: numbers, forecast, target, limits, what is done
  baton scaling --last 20                       how it came to that
  baton scaling --model NAME                    of several models, this one
  baton scaling --json                          for programs
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "scaling",
        help="the autoscaler's newest plans, and why",
        description="Asks a router what the autoscaler has decided. docs/scaling.md says how to read it. Exits with 1 if none runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="a router's address (default: that of the running `baton up`)")
    parser.add_argument("--last", type=int, default=1, metavar="N", help="so many plans, the newest first (default: 1)")
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    asked = asked_router(arguments.url, of_model(f"scaling?last={arguments.last}", arguments.model))
    if asked is None:
        return 1
    _, told = asked
    each = of_each(told)
    said = [f"{name}: {trouble(one) or text(one)}" if name else text(one) for name, one in each.items()]
    print(json.dumps(told, indent=2) if arguments.json else "\n\n".join(said))
    return 0 if any(one.get("enabled") for one in each.values()) else 1


def text(told: dict[str, Any]) -> str:
    """For people."""
    if not told["enabled"]:
        return "no autoscaler runs: each pool has its `count` of workers. `autoscaling: {enabled: true}` in the configuration starts it"
    if not told["plans"]:
        return "no plan has been made yet"
    return "\n\n".join(map(_plan, told["plans"]))


def _plan(plan: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(plan["at_s"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    inputs = ", ".join(f"{name} {reading['value']:.4g}" for name, reading in plan["inputs"].items())
    age_s = max((reading["age_s"] for reading in plan["inputs"].values()), default=0.0)
    return "\n".join([f"{at} by {plan['scaler']}", f"told: {inputs} ({age_s:.1f} s ago)" if inputs else "told: nothing", plan["text"]])
