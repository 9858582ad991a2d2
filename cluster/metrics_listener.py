"""A process's own ``GET /metrics``, on its event loop: what is scraped may then be read without a lock, by whoever changes it.

Small on purpose. Prometheus asks for one path every few seconds, from inside the cluster; no server that comes with other packages runs
on a loop that somebody else owns without also wanting the process's signals. A router also answers other routers here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from prometheus_client.registry import Collector

from core.metrics.exposition import OneFamily, encoder

log = logging.getLogger(__name__)

_HEAD_BYTES = 16 * 1024
_ASKS_WITHIN_S = 10.0
_MOST_CONNECTIONS = 16
"""At once; those beyond are closed. Nobody but Prometheus has a reason to come."""
_END = b"# EOF\n"
"""Of the newer one of Prometheus' two formats; the other has none."""


Answer = Callable[[str, Mapping[str, str]], "bytes | None"]
"""JSON for a path, by the headers that came with it (names in lower case); None: there is nothing there, for whoever asks."""


class MetricsListener:
    """Answers on ``host`` at a port of the system's choice, from ``open`` to ``close``."""

    def __init__(self, registry: Collector, host: str, answer: Answer = lambda path, headers: None) -> None:
        """``answer`` is asked for every other path."""
        self._registry = registry
        self._host = host
        self._other = answer
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def open(self) -> str:
        """Begins; returns the address to be scraped at, ``host:port``. Empty where nobody can listen: what serves is worth more than
        what is known of it."""
        try:
            self._server = await asyncio.start_server(self._serve, self._host, 0, limit=_HEAD_BYTES)
        except OSError as error:
            log.warning("metrics: nobody can listen at %s (%s); this process will not be scraped", self._host, error)
            return ""
        port = self._server.sockets[0].getsockname()[1]
        return f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"

    def close(self) -> None:
        """Ends at once, connections included. Twice is once, and so is before ``open``."""
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request per connection: a scrape comes every few seconds, and none of it is worth keeping a connection for."""
        try:
            if len(self._open) < _MOST_CONNECTIONS:
                self._open.add(writer)
                async with asyncio.timeout(_ASKS_WITHIN_S):
                    writer.write(await self._answer(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever it was does not speak HTTP, or has left
        finally:
            self._open.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, head: bytes) -> bytes:
        request, *lines = head.decode("latin-1").split("\r\n")
        method, _, path = request.partition(" ")
        path = path.partition(" ")[0].partition("?")[0]
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if path != "/metrics" or method not in {"GET", "HEAD"}:
            known = self._other(path, headers) if method == "GET" else None
            if known is not None:
                return _response("200 OK", "application/json", known)
            return _response("404 Not Found", "text/plain", b"there is only GET /metrics here\n")
        try:
            encode, content_type = encoder(headers.get("accept", ""))
            parts: list[bytes] = []
            for family in self._registry.collect():
                parts.append(encode(OneFamily(family)).removesuffix(_END))
                await asyncio.sleep(0)  # all of a large router's takes a tenth of a second, and tokens are not to wait for that
            body = b"".join(parts) + (_END if "openmetrics" in content_type else b"")
        except Exception:  # a collector's mistake must not look like a process that is gone
            log.exception("metrics: a scrape failed")
            return _response("500 Internal Server Error", "text/plain", b"see the log\n")
        return _response("200 OK", content_type, body if method == "GET" else b"")


def _response(status: str, content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode("latin-1") + body
