"""Where workers run: one placement group and one named, detached actor each, made and unmade through Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.actor import BuildRuntime, WorkerActor
from cluster.spec import WorkerReport, WorkerSpec
from core.errors import WorkerLostError
from core.ids import WorkerId
from core.pool_config import PoolConfig
from core.worker import Role

log = logging.getLogger(__name__)

NAMESPACE = "baton"
_STOP_S = 15.0
_ANSWERS_WITHIN_S = 10.0
_TELL_S = 5.0


class Placement:
    """The workers of one application that this process has handles of. Waits for workers without blocking the caller's loop."""

    def __init__(self, app: str, build: BuildRuntime) -> None:
        self._app = app
        self._build = build
        self._actors: dict[WorkerId, Any] = {}

    def _name(self, worker: WorkerId) -> str:
        return f"{self._app}/{worker}"

    async def create(self, spec: WorkerSpec, pool: PoolConfig, env: Mapping[str, str]) -> None:
        """Asks Ray for a worker. Returns when asked, not when it runs: on a full cluster it waits for a node. Raises WorkerLostError,
        whatever it was that Ray did not like."""
        try:
            self._actors[spec.worker] = self._created(spec, pool, env)
        except Exception as error:
            raise WorkerLostError(spec.worker, _first_line(error)) from error

    def _created(self, spec: WorkerSpec, pool: PoolConfig, env: Mapping[str, str]) -> Any:
        bundle = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, **pool.resources}
        bundle = {name: amount for name, amount in bundle.items() if amount}
        group = placement_group([bundle or {"CPU": 0.001}], strategy="STRICT_PACK", name=self._name(spec.worker), lifetime="detached")
        actor = ray.remote(WorkerActor).options(
            name=self._name(spec.worker),
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            resources=pool.resources or None,
            max_concurrency=8,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group),
            runtime_env={"env_vars": dict(env)},
        )
        return actor.remote(spec, self._build)

    async def find(self) -> list[WorkerSpec]:
        """The specs of all living workers of this application, whoever created them, and takes charge of them."""
        names = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True) if entry["namespace"] == NAMESPACE]
        asked = await asyncio.gather(*(self._take_charge(name) for name in names if name.startswith(f"{self._app}/")))
        specs = [spec for spec in asked if spec is not None]
        self._remove_groups_but({self._name(spec.worker) for spec in specs})
        return specs

    async def _take_charge(self, name: str) -> WorkerSpec | None:
        """The spec of one worker; None where it has ended, or does not answer and is ended."""
        try:
            actor = ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            return None  # it has ended since the list was made
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                spec: WorkerSpec = await actor.spec.remote()
        except (ray.exceptions.RayError, TimeoutError) as error:
            log.warning("worker %s does not answer (%s); ending it", name, error)
            ray.kill(actor)
            return None
        self._actors[spec.worker] = actor
        return spec

    def _remove_groups_but(self, names: set[str]) -> None:
        """Gives back the places of workers that died while no controller was there to do it."""
        for group in placement_group_table().values():
            if group["state"] != "REMOVED" and group["name"].startswith(f"{self._app}/") and group["name"] not in names:
                remove_placement_group(ray.util.get_placement_group(group["name"]))

    async def beat(self, worker: WorkerId, timeout_s: float) -> WorkerReport | None:
        """A worker's report; None when it did not answer in time, or has no actor yet. Raises WorkerLostError when it is dead."""
        if worker not in self._actors:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                report: WorkerReport = await self._actors[worker].beat.remote()
        except (TimeoutError, ray.exceptions.ActorUnavailableError):
            return None  # perhaps a hiccup of the network; silence that lasts is noticed as time passes
        except ray.exceptions.RayError as error:
            raise WorkerLostError(worker, _first_line(error)) from error
        return report

    async def drain(self, worker: WorkerId, timeout_s: float) -> bool:
        """Tells a worker to take no new legs, and how long its running ones may take. False, also of the next two: it did not answer."""
        return await self._tell(worker, "drain", timeout_s)

    async def relabel(self, worker: WorkerId, role: Role) -> bool:
        """Tells a worker which pool it belongs to."""
        return await self._tell(worker, "relabel", role)

    async def rest(self, worker: WorkerId, asleep: bool) -> bool:
        """Tells a worker, which has drained, to sleep; or to wake."""
        return await self._tell(worker, "rest", asleep)

    async def _tell(self, worker: WorkerId, method: str, what: Any) -> bool:
        actor = self._actors.get(worker)
        if actor is None:
            return False
        try:
            async with asyncio.timeout(_TELL_S):
                await getattr(actor, method).remote(what)
        except (ray.exceptions.RayError, TimeoutError) as error:
            log.info("worker %s could not be told to %s: %s", worker, method, type(error).__name__)
            return False
        return True

    async def remove(self, worker: WorkerId) -> None:
        """Ends a worker, gently first, and gives its place back. Works for dead ones too."""
        actor = self._actors.pop(worker, None)
        if actor is not None:
            try:
                async with asyncio.timeout(_STOP_S):
                    await actor.stop.remote()
                log.info("worker %s stopped", worker)
            except (ray.exceptions.RayError, TimeoutError) as error:
                log.info("worker %s did not stop by itself: %s", worker, type(error).__name__)
        # On a thread: these wait for Ray's head, which may take its time just when a machine has gone, and the caller's loop serves others.
        await asyncio.to_thread(self._give_back, worker, actor)

    def _give_back(self, worker: WorkerId, actor: Any) -> None:
        if actor is not None:
            ray.kill(actor)
        try:
            remove_placement_group(ray.util.get_placement_group(self._name(worker)))
        except ValueError:
            pass  # gone already: its node died, or a former controller removed it


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
