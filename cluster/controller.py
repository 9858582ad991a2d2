"""The controller: one loop that keeps the pools as the configuration wants them and tells the routers who is there.

A Serve deployment of one replica, so Serve restarts it; the workers outlive it and are adopted again. Routers go on with what
they know meanwhile. ``run()`` is the loop around ``step()``; how many workers there are to be is ``Wanted``, those there are ``Fleet``,
and what makes one the other is decided in ``membership``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import ray
from ray import serve

from autoscaler import seasonal
from autoscaler.signals import WorkerSignal
from cluster import board
from cluster.actor import BuildRuntime
from cluster.budget_claims import BudgetClaims, costs, terms_of
from cluster.coming import Coming, coming
from cluster.fleet import BEAT_TIMEOUT_S, Fleet
from cluster.lifecycle import DrainAsked, RoleChanged, SleepAsked, WakeAsked, WorkerRecord
from cluster.membership import Create, Drain, Membership, reconcile
from cluster.membership_news import MembershipNews
from cluster.metrics_listener import MetricsListener
from cluster.placement import Placement
from cluster.pool_tally import PoolTally
from cluster.ray_metrics import RayMetrics
from cluster.role_wishes import RoleWishes
from cluster.scaling import Scaling
from cluster.scaling_policy import make_scaler, needs_seasons
from cluster.signals.registry import make_second_source, make_source
from cluster.signals.workers import worker_signals
from cluster.spec import differing_keys
from cluster.spec_maker import SpecMaker
from cluster.targets import RoutersHeard, scrape_targets
from cluster.unfit import unfit
from cluster.wanted import Wanted
from cluster.worker_row import worker_row
from core import heap
from core.application_config import model_app
from core.config import BatonConfig
from core.errors import WorkerUnfitError
from core.ids import RouterId, WorkerId
from core.metrics.exposition import ReadingCollector
from core.metrics.tally import Reading
from core.worker import Role, WorkerState

log = logging.getLogger(__name__)

_STEP_S = 0.5
_STEP_WAITS_S = 0.5
"""For the answers to beats. A worker that has no process yet answers late, and the others are not to wait for it."""
_LONG_POLL_S = 2.0  # a stopping replica waits for its calls to return


class Controller:
    """``config`` is what one model is served by, as plain data; ``build`` composes a worker inside its actor. ``served_name`` is the
    model's where there are others in the application: whatever is filed under an application's name is then filed under both. ``budget``
    is the handle of who keeps what they share, and of how many GPUs that is."""

    def __init__(
        self,
        config: dict[str, Any],
        build: BuildRuntime,
        served_name: str | None = None,
        budget: Any = None,
        budget_gpus: float = 0.0,
    ) -> None:
        self._config = BatonConfig.model_validate(config)
        self._app = _app_name() if served_name is None else model_app(_app_name(), served_name)
        self._differing = differing_keys(self._config)
        self._surge = {role: self._config.pool(role).surge for role in Role}
        self._wanted = Wanted(self._app, self._config)
        self._specs = SpecMaker(self._app, self._config)
        self._tally = PoolTally()
        self._fleet = Fleet(self._config, self._specs, Placement(self._app, build), self._wanted, self._tally)
        self._news = MembershipNews(self._fleet.members)
        self._wishes = RoleWishes(self._app)
        self._routers = RoutersHeard()
        self._ray_metrics = RayMetrics()
        self._asked: set[WorkerId] = set()
        """Workers that somebody wants gone."""
        self._claims = None
        if budget is not None and terms_of(self._config).claims:
            self._claims = BudgetClaims(lambda claim: budget.claim.remote(served_name, claim), costs(self._config), budget_gpus)
        self._scaling = self._make_scaling() if self._config.autoscaling.enabled else None
        self._scaling_task: asyncio.Task[None] | None = None
        self._listener = MetricsListener(ReadingCollector(self._readings), self._config.host or ray.util.get_node_ip_address())
        self._metrics_address = ""
        self._loop_task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self.run())

    # -- asked by routers and people -----------------------------------------------------------------------------------

    async def membership(self, known_version: int, router: RouterId | None = None, metrics_address: str = "") -> Membership | None:
        """The workers, once they differ from ``known_version``; None when nothing changed for some seconds. Ask again.

        Whoever asks is a router that can be scraped at ``metrics_address``, for as long as it goes on asking.
        """
        if router is not None and metrics_address:
            self._routers.heard(router, metrics_address, time.monotonic())
        if not await self._news.wait(known_version, _LONG_POLL_S):
            return None
        members = self._fleet.members
        return Membership(members.version, members.cards(), self._specs.router_keys, self._coming())

    def _coming(self) -> Coming:
        scales = self._config.autoscaling.enabled and not self._config.autoscaling.dry_run
        return coming(self._fleet.members, self._wanted, self._fleet.start_s, scales, time.time())

    async def status(self) -> dict[str, Any]:
        """Pools and workers as plain data, for ``baton status``."""
        return self._status()

    async def targets(self) -> list[dict[str, Any]]:
        """Whom Prometheus is to scrape, as its ``http_sd_configs`` want it."""
        of_ray = await self._ray_metrics.addresses()
        there = {record.worker for record in self._fleet.members if record.state is not WorkerState.GONE}
        told = {worker: report.metrics_address for worker, report in self._fleet.reports.items() if worker in there}
        workers = {worker: address for worker, address in told.items() if address}
        return scrape_targets(self._app, self._metrics_address, self._routers.present(time.monotonic()), workers, of_ray)

    async def scaling(self, last: int = 1) -> dict[str, Any]:
        """As plain data: the newest plans of the autoscaler and what plans have asked for last, the newest first, and how the last minutes
        went."""
        plans = [] if self._scaling is None else [turn.as_dict() for turn in self._scaling.newest(last)]
        actions = [] if self._scaling is None else msgspec.to_builtins(self._scaling.actions.newest())
        course = [] if self._scaling is None else msgspec.to_builtins(self._scaling.course.points)
        config = self._config.autoscaling.model_dump(mode="json", exclude={"prometheus", "prometheus_token_env"})
        told = {"app": self._app, "enabled": self._scaling is not None, "wanted": self._wanted.as_dict(), "config": config}
        return {**told, "plans": plans, "actions": actions, "course": course}

    def _readings(self) -> Sequence[Reading]:
        of_scaling = () if self._scaling is None else self._scaling.tally.readings()
        return (*self._tally.readings(self._fleet.members, self._wanted, len(self._present_routers())), *of_scaling)

    def _present_routers(self) -> Mapping[RouterId, str]:
        return self._routers.present(time.monotonic())

    def _status(self) -> dict[str, Any]:
        fleet, now = self._fleet, time.time()
        return {
            "app": self._app,
            "model": self._config.served_name,
            "wanted": self._wanted.as_dict(),
            "workers": [worker_row(record, fleet.reports.get(record.worker), now) for record in fleet.members],
            "failures": list(fleet.failures),
        }

    async def stop_workers(self) -> None:
        """Ends every worker, now. The application is being taken down."""
        self._wanted.become(dict.fromkeys(Role, 0))
        self._loop_task.cancel()
        if self._scaling_task is not None:
            self._scaling_task.cancel()
        await asyncio.gather(self._fleet.end_all(), self._wishes.settled())
        board.clear(self._app)

    async def check_health(self) -> None:
        """Called by Serve: a controller whose loop has ended, or whose scaler's has, is no controller."""
        for task in (self._loop_task, self._scaling_task):
            if task is not None and task.done() and not task.cancelled():
                raise RuntimeError(f"the controller's loop ended: {task.exception()}")

    async def __del__(self) -> None:
        # Serve calls this on a graceful stop. A redeploy or a moved replica leaves the workers alone; a deleted
        # application must not leave them behind, nor a model that is served no more.
        if _is_going():
            await self.stop_workers()

    # -- roles and rest ------------------------------------------------------------------------------------------------

    async def relabel(self, worker: WorkerId, role: Role) -> None:
        """Makes a ready worker one of the other pool, which is to have one more, and its own one less. What it runs ends where it is.

        Returns when the worker knows and the routers are being told; at once where it has the role already. Raises WorkerUnfitError,
        WorkerLostError when the worker does not answer: it then keeps the role it had; and ValueError for what is no role.
        """
        role = Role(role)  # callers of a Serve handle are not held to types, and a word in a role's place would go to every router
        was = self._fit(worker, WorkerState.READY, role, f"become a {role} worker")
        if was.role is role:
            return
        await self._fleet.tell_role(worker, role)
        was = self._fit(worker, WorkerState.READY, role, f"become a {role} worker")  # meanwhile it may have died, or been relabelled
        if was.role is not role:
            self._fleet.apply(worker, RoleChanged(role))
            self._wanted.change({was.role: -1, role: 1})
            log.info("controller: %s is a %s worker from now on", worker, role)
            await self._news.tell_now()

    async def sleep(self, worker: WorkerId) -> None:
        """Has a ready worker end what it has and then sleep until ``wake``; its pool is to have one less. One whose engine cannot sleep
        ends instead. Returns when routers are being told; raises WorkerUnfitError."""
        record = self._fit(worker, WorkerState.READY, None, "sleep")
        can_sleep = record.card is not None and record.card.facts.can_sleep
        self._fleet.apply(worker, SleepAsked() if can_sleep else DrainAsked())
        self._wanted.change({record.role: -1})
        await self._news.tell_now()

    async def wake(self, worker: WorkerId, role: Role) -> None:
        """Has a sleeping worker serve again, with this role; that pool is to have one more. Returns when the worker is being told: it is
        ``starting`` then, for as long as its engine takes to wake. Raises as ``relabel`` does."""
        role = Role(role)
        if self._fit(worker, WorkerState.SLEEPING, role, f"wake as a {role} worker").role is not role:
            await self._fleet.tell_role(worker, role)
        self._fit(worker, WorkerState.SLEEPING, role, f"wake as a {role} worker")
        self._fleet.apply(worker, RoleChanged(role))
        self._fleet.apply(worker, WakeAsked())
        self._wanted.change({role: 1})

    def _fit(self, worker: WorkerId, state: WorkerState, role: Role | None, wish: str) -> WorkerRecord:
        record = self._fleet.members.get(worker)
        if reason := unfit(record, state, role, self._specs.hashes, self._differing):
            raise WorkerUnfitError(worker, wish, reason)
        assert record is not None
        return record

    # -- scaling -------------------------------------------------------------------------------------------------------

    def _make_scaling(self) -> Scaling:
        config = self._config.autoscaling
        source = make_source(config, self._app, self._present_routers)
        routers = make_second_source(config, self._present_routers)
        keep = partial(board.keep_scaler, self._app)
        kept = board.kept_scaler(self._app)
        scaler, interval_s, dry_run = make_scaler(self._config), config.interval_s, config.dry_run
        return Scaling(scaler, source, self, interval_s, dry_run, keep, kept, claims=self._claims, routers=routers)

    async def _scale(self, scaling: Scaling) -> None:
        if needs_seasons(self._config):
            with heap.loading():  # the collector's rounds are 60 ms longer otherwise
                await asyncio.to_thread(seasonal.load)
        await scaling.run()

    def workers(self) -> tuple[WorkerSignal, ...]:
        """As the scaler is told of them."""
        fleet = self._fleet
        return worker_signals(fleet.members, fleet.reports, self._wanted, self._is_outgoing, fleet.found, time.time())

    async def drain(self, worker: WorkerId, role: Role) -> None:
        """Lets this very worker go, or one that was not there yet; its pool is to have one less, unless that slept."""
        record = self._fleet.members.get(worker)
        is_asleep = record is not None and record.state is WorkerState.SLEEPING
        self._fleet.apply(worker, DrainAsked())
        if not is_asleep:
            self._wanted.change({role if record is None else record.role: -1})

    async def add(self, role: Role, count: int) -> None:
        """The pool is to have so many more: they are created at the next step, at once."""
        self._wanted.change({role: count})

    def _is_outgoing(self, record: WorkerRecord) -> bool:
        return record.spec_hash != self._specs.hashes[record.role] or record.worker in self._asked

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Adopts what is there, then steps for ever."""
        self._metrics_address = await self._listener.open()
        self._wanted.recall()
        await self._fleet.find()
        if self._claims is not None:
            here = {role: sum(record.role is role for record in self._fleet.members) for role in Role}
            self._wanted.become(await self._claims.begins_with(self._wanted, here))
        await self._fleet.hear(BEAT_TIMEOUT_S)  # what is adopted is ready or draining already: routers must not be told otherwise
        if self._scaling is not None:
            self._scaling_task = asyncio.get_running_loop().create_task(self._scale(self._scaling))
        while True:
            started, failed = time.monotonic(), False
            try:
                await self.step()
            except Exception:
                failed = True
                log.exception("controller: a step failed; trying again")
            took_s = time.monotonic() - started
            self._tally.stepped(took_s, failed)
            await asyncio.sleep(max(0.0, _STEP_S - took_s))

    async def step(self) -> None:
        """Hears every worker, then creates and drains what reconciling asks for, then tells the routers."""
        fleet = self._fleet
        await fleet.hear(_STEP_WAITS_S)
        self._wishes.look(self.relabel)
        asked = self._asked = board.asked_to_drain(self._app)
        for action in reconcile(fleet.members, self._wanted, self._specs.hashes, time.time(), self._surge, asked, fleet.pending):
            if isinstance(action, Create):
                fleet.create(action)
            elif isinstance(action, Drain):
                fleet.apply(action.worker, DrainAsked())
        for worker in asked:
            record = fleet.members.get(worker)
            if record is None or record.state is WorkerState.GONE:
                board.forget_drain(self._app, worker)
        fleet.forget_replaced()
        board.post(self._app, self._status())
        await self._news.tell()


def _app_name() -> str:
    return str(serve.get_replica_context().app_name)


def _is_going() -> bool:
    """Whether Serve is deleting the application (or does not know it any more), or this deployment of it, as against restarting the
    controller: a model may be taken off the list."""
    context = serve.get_replica_context()
    status = serve.status().applications.get(context.app_name)
    if status is None or str(status.status).endswith("DELETING"):
        return True
    return bool(status.deployments) and context.deployment not in status.deployments  # none: Serve has yet to read the new configuration
