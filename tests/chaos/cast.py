"""The processes of a running cluster by what they are, and what each of them says of itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from tests.chaos.sockets import Where, connections
from tests.chaos.steps import Timeline
from tests.support.cluster_process import Cluster

_ROUTER = "ray::ServeReplica:baton:Router"
_CONTROLLER = "ray::ServeReplica:baton:Controller"
_ANSWER_S = 5.0


@dataclass(frozen=True)
class Door:
    """One router replica, reached past HAProxy."""

    router: str
    pid: int
    url: str


class Cast:
    """Everybody on stage. Asks routers at their own doors, so that a question reaches the one it is meant for."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.doors: list[Door] = []
        self._client = httpx.AsyncClient(timeout=_ANSWER_S)

    async def close(self) -> None:
        await self._client.aclose()

    # -- who is who ----------------------------------------------------------------------------------------------------

    async def find_doors(self) -> None:
        """Looks for every router's own port. Again after one was replaced."""
        processes = await asyncio.to_thread(self.cluster.home.titled, _ROUTER)
        found = await asyncio.gather(*(self._door(process.pid, port) for process in processes for port in _listening(process.pid)))
        self.doors = [door for door in found if door is not None]

    async def _door(self, pid: int, port: int) -> Door | None:
        url = f"http://127.0.0.1:{port}"
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            return Door((await self._client.get(f"{url}/v1/baton/workers")).json()["router"], pid, url)
        return None

    def controllers(self) -> list[psutil.Process]:
        """The controller; none while there is none."""
        return self.cluster.home.titled(_CONTROLLER)

    def haproxies(self) -> list[psutil.Process]:
        """HAProxy, and one that is on its way out."""
        return [process for process in self.cluster.home.processes() if process.name() == "haproxy"]

    # -- what they say -------------------------------------------------------------------------------------------------

    async def timelines(self, without: int | None = None) -> list[Timeline]:
        """The newest timelines of every router, that of the process ``without`` left out."""
        doors = [door for door in self.doors if door.pid != without]
        answers = await asyncio.gather(*(self._ask(f"{door.url}/v1/baton/requests?limit=64") for door in doors))
        return [{**timeline, "router": answer["router"]} for answer in answers if answer for timeline in answer["timelines"]]

    async def routers(self) -> list[dict[str, Any]]:
        """What each router knows of the workers. One that does not answer is left out."""
        answers = await asyncio.gather(*(self._ask(f"{door.url}/v1/baton/workers") for door in self.doors))
        return [answer for answer in answers if answer is not None]

    async def status(self) -> dict[str, Any] | None:
        """What the controller knows; None while it does not answer."""
        return await self._ask(f"{self.cluster.url}/v1/baton/status")

    async def workers(self, role: str | None = None) -> dict[str, dict[str, Any]]:
        """The ready ones by name."""
        status = await self.status() or {"workers": []}
        return {w["worker"]: w for w in status["workers"] if w["state"] == "ready" and role in (None, w["role"])}

    async def complete(self) -> bool:
        """Whether every wanted worker is ready, every router there, and every worker reached by each of them."""
        status = await self.status()
        if status is None:
            return False
        await self.find_doors()
        ready = {worker["worker"] for worker in status["workers"] if worker["state"] == "ready"}
        reached = [{worker["worker"] for worker in router["workers"]} for router in await self.routers()]
        return len(ready) == len(status["workers"]) == sum(status["wanted"].values()) and reached == [ready] * self.cluster.routers

    async def all_served(self) -> bool:
        """Whether HAProxy gives every router something to do: it hears of a new one later than we do."""
        answers = await asyncio.gather(*(self._ask(f"{self.cluster.url}/v1/baton/workers") for _ in range(4 * self.cluster.routers)))
        return {answer["router"] for answer in answers if answer is not None} == {door.router for door in self.doors}

    async def held(self) -> dict[str, int]:
        """What is held for anybody, by what and where: requests, legs, blocks, leases. Empty when all is free."""
        routers, status = await self.routers(), await self.status()
        if not routers:
            return {"routers, of which none answers": len(self.doors)}
        held = {f"{what} at {r['router']}": r[what] for r in routers for what in ("requests", "outstanding_legs")}
        seen = [worker for router in routers for worker in router["workers"]] + (status or {"workers": []})["workers"]
        for worker in seen:
            if worker["state"] == "gone":
                continue
            name = worker["worker"]
            held[f"used blocks at {name}"] = max(held.get(f"used blocks at {name}", 0), worker["num_blocks"] - worker["free_blocks"])
            for what in ("running", "waiting", "leased_blocks", "stranded_blocks"):
                held[f"{what} at {name}"] = max(held.get(f"{what} at {name}", 0), worker.get(what) or 0)
        return {what: count for what, count in held.items() if count}

    async def _ask(self, url: str) -> dict[str, Any] | None:
        try:
            answer = await self._client.get(url)
            answer.raise_for_status()
            told: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError):
            return None
        return told

    # -- connections ---------------------------------------------------------------------------------------------------

    def data_plane(self, worker: dict[str, Any], routers: Sequence[int]) -> list[Where]:
        """Both ends of a worker's connections to these routers; its listening socket, so that none of them comes back.

        Of several routers only the named ones lose it: those that are not named keep the connection they have.
        """
        port = int(str(worker["address"]).rpartition(":")[2])
        theirs = {c.laddr.port for pid in routers for c in connections(pid) if c.raddr and c.raddr.port == port}

        def of_worker(connection: Any) -> bool:
            if connection.laddr.port != port:
                return False
            return connection.status == psutil.CONN_LISTEN or (connection.raddr and connection.raddr.port in theirs)

        def of_router(connection: Any) -> bool:
            return bool(connection.raddr) and connection.raddr.port == port

        return [Where(worker["pid"], of_worker), *(Where(pid, of_router) for pid in routers)]

    def side_channel(self, keeper: dict[str, Any], readers: Sequence[dict[str, Any]]) -> list[Where]:
        """Both ends of what decode workers use to pull KV from a prefill worker, and its listening socket for that."""
        theirs = {c.raddr.port for reader in readers for c in connections(reader["pid"]) if c.raddr}
        ports = theirs & set(_listening(keeper["pid"])) - {int(str(keeper["address"]).rpartition(":")[2])}

        def of_keeper(connection: Any) -> bool:
            return connection.laddr.port in ports

        def of_reader(connection: Any) -> bool:
            return bool(connection.raddr) and connection.raddr.port in ports

        return [Where(keeper["pid"], of_keeper), *(Where(reader["pid"], of_reader) for reader in readers)]


def _listening(pid: int) -> list[int]:
    return sorted({c.laddr.port for c in connections(pid) if c.status == psutil.CONN_LISTEN})
