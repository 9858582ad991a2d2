"""What a cluster is configured with whose autoscaler is watched at work: engines that a little keeps busy, and a scaler that is quick."""

from __future__ import annotations

from typing import Any

SLOW_STEPS = {"prefill_base_s": 0.005, "prefill_token_s": 0.004, "decode_base_s": 0.05, "decode_request_s": 0.02}
"""Of simulated engines, in seconds: a few requests a second keep them busy. What is tested is not how fast this machine is."""


def scaling_args(*, least: int, most_prefill: int, most_decode: int, **changes: object) -> dict[str, Any]:
    """``autoscaling`` of a configuration for a test on the real clock: numbers are over ten seconds, decisions twice a second, and what is
    promised is what engines with ``SLOW_STEPS`` can keep."""
    return {
        "enabled": True,
        "interval_s": 0.5,
        "window_s": 10,
        "objective": {"ttft_s": 3.0, "tpot_s": 0.2},
        "prefill": {"min": least, "max": most_prefill},
        "decode": {"min": least, "max": most_decode},
        "season_s": None,
        **changes,
    }


def slowed(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments of simulated engines, with ``SLOW_STEPS`` and a queue in which nobody is refused however long a worker's start takes."""
    args["engine"]["simulated"]["timing"] = {"type": "polynomial", **SLOW_STEPS}
    args["router"]["queue"] = {"max_wait_s": 600, "max_requests": 10_000}
    return args
