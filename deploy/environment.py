"""What Ray and its libraries read from the environment. Has to be set before ray is imported, so this imports nothing."""

from __future__ import annotations

import os

DEFAULTS = {
    # Serve's own HTTP proxy costs 200 ms of TTFT at 64 streams; HAProxy and the throughput mode bring that to about 16.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without GPUs must not have them hidden from its engine's children
}

ON_ONE_MACHINE = {
    # Ray keeps a stopped replica for half a minute, for load balancers far away to notice. Here there is none.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
}


def prepare(on_one_machine: bool) -> None:
    """Sets the defaults; what the user has set wins."""
    for name, value in {**DEFAULTS, **(ON_ONE_MACHINE if on_one_machine else {})}.items():
        os.environ.setdefault(name, value)
