"""Who measures: one on every node, in a process of its own. The doctor asks; nothing here has an opinion."""

from __future__ import annotations

import os
import time

from core.config import BatonConfig
from deploy.doctor import node, tcp
from deploy.doctor.measured import Link, Node, Transfer
from kv_transfer.nixl_probe import NixlProbe, Offer, ProbeError

_READ_LIMIT_S = 20.0


class Examiner:
    """``host`` is the address of this node. Methods block, some seconds at the most; one call at a time but for ``now_s``.

    A plain class: Ray makes an actor of it, and a process manager a process.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._echo: tcp.Echo | None = None
        self._probe: NixlProbe | None = None

    def now_s(self) -> float:
        """This node's clock."""
        return time.time()

    def node(self, config: BatonConfig | None, http: tuple[str, int] | None) -> Node:
        """What there is on this node. ``http``: where Serve is to listen, if anywhere here."""
        return node.look(self._host, config, http)

    def serve_tcp(self) -> int:
        """Answers from now on at the port returned, and at this node's address. Raises OSError."""
        self._echo = self._echo or tcp.Echo(self._host)
        return self._echo.port

    def offer(self, size_bytes: int) -> Offer | str:
        """Bytes to be read by NIXL; or why not."""
        try:
            return self._agent(size_bytes).offer(os.getpid() % 200)
        except ProbeError as error:
            return str(error)

    def pull(self, keeper: str, host: str, port: int, offer: Offer | str | None) -> Link:
        """Measures the way from ``keeper``, which listens at ``host`` and ``port``."""
        try:
            round_trip_s, by_tcp = tcp.ask(host, port)
        except OSError as error:
            # What TCP cannot reach, UCX would try for minutes.
            return Link(keeper, self._host, 0.0, Transfer(problem=f"{host}:{port} cannot be reached: {error.strerror or error}"))
        if offer is None:
            return Link(keeper, self._host, round_trip_s, by_tcp)
        if isinstance(offer, str):
            return Link(keeper, self._host, round_trip_s, by_tcp, Transfer(problem=f"{keeper}: {offer}"))
        try:
            moved, seconds = self._agent(offer.size_bytes).pull(offer, _READ_LIMIT_S)
        except ProbeError as error:
            return Link(keeper, self._host, round_trip_s, by_tcp, Transfer(problem=str(error)))
        return Link(keeper, self._host, round_trip_s, by_tcp, Transfer(moved, seconds))

    def _agent(self, size_bytes: int) -> NixlProbe:
        if self._probe is None:
            self._probe = NixlProbe(f"baton-doctor-{self._host}-{os.getpid()}", size_bytes)
        return self._probe
