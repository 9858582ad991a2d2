"""Where Ray's own metrics are: one exporter per node, and what its head has besides."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import ray
from ray.experimental.internal_kv import _internal_kv_get

_BESIDES = (b"AutoscalerMetricsAddress", b"DashboardMetricsAddress")
_ANSWERS_WITHIN_S = 1.0
_LOOKS_AGAIN_S = 15.0

Address = tuple[str, int]


class RayMetrics:
    """Those of Ray's exporters that listen, looked for anew every quarter of a minute.

    Ray names a port for every node, and an address for the dashboard, whether anything serves them or not: which is so where the
    package lacks what its agent needs, or there is no dashboard. A target that is always down is worse than none.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: list[str] = []
        self._looked_s = float("-inf")

    async def addresses(self) -> Sequence[str]:
        """``host:port`` of each."""
        if self._clock() - self._looked_s >= _LOOKS_AGAIN_S:
            self._looked_s = self._clock()
            named = await asyncio.to_thread(_named)
            listen = await asyncio.gather(*(_listens(address) for address in named))
            self._found = [_shown(address) for address, listens in zip(named, listen, strict=True) if listens]
        return self._found


def _named() -> list[Address]:
    """Blocks for a moment."""
    named = [(node["NodeManagerAddress"], int(node["MetricsExportPort"])) for node in ray.nodes() if node["Alive"]]
    for key in _BESIDES:
        host, _, port = (_internal_kv_get(key) or b"").decode().rpartition(":")
        if host and port.isdigit():
            named.append((host.strip("[]"), int(port)))
    return named


async def _listens(address: Address) -> bool:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ANSWERS_WITHIN_S):
            _, writer = await asyncio.open_connection(*address)
            writer.close()
            return True
    return False


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
