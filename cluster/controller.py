"""The controller: one loop that keeps the pools as the configuration wants them and tells the routers who is there.

A Serve deployment of one replica, so Serve restarts it; the workers outlive it and are adopted again. Routers go on with what
they know meanwhile. ``run()`` is the loop around ``step()``; what to do is decided in ``lifecycle`` and ``membership``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import time
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
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
from cluster.channel import ChannelKeys
from cluster.coming import Coming, coming
from cluster.drain import hard_limit_s
from cluster.heard import heard
from cluster.lifecycle import (
    WELL_ENDED,
    Died,
    DrainAsked,
    Event,
    Kill,
    Limits,
    RoleChanged,
    SleepAsked,
    TellDraining,
    TellRole,
    TellWake,
    TimePassed,
    WakeAsked,
    WorkerRecord,
)
from cluster.membership import Create, Drain, Members, Membership, reconcile
from cluster.metrics_listener import MetricsListener
from cluster.placement import Placement
from cluster.pool_tally import PoolTally
from cluster.ray_metrics import RayMetrics
from cluster.scaling import Scaling
from cluster.scaling_policy import make_scaler, needs_seasons
from cluster.signals.registry import make_source
from cluster.signals.workers import PRESENT, worker_signals
from cluster.spec import WorkerReport, WorkerSpec, differing_keys, spec_hash
from cluster.targets import RoutersHeard, scrape_targets
from cluster.unfit import unfit
from core.application_config import model_app
from core.config import BatonConfig
from core.errors import BatonError, WorkerLostError, WorkerUnfitError
from core.ids import Epoch, RouterId, WorkerId
from core.metrics.exposition import ReadingCollector
from core.metrics.tally import Reading
from core.worker import Role, WorkerState

log = logging.getLogger(__name__)

_STEP_S = 0.5
_BEAT_TIMEOUT_S = 5.0
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
        self._placement = Placement(self._app, build)
        self._members = Members()
        self._reports: dict[WorkerId, WorkerReport] = {}
        self._hearing: dict[WorkerId, asyncio.Task[None]] = {}
        self._hashes = {role: spec_hash(self._config, role) for role in Role}
        self._differing = differing_keys(self._config)
        scaled = self._config.autoscaling.enabled
        # A scaled pool only begins with its count: what scaling has made of it is kept, whatever that count is now.
        self._configured = {} if scaled else {str(role): self._config.pool(role).count for role in Role}
        self._wanted = {role: self._config.pool(role).count for role in Role}
        self._surge = {role: self._config.pool(role).surge for role in Role}
        self._limits = {role: self._limits_of(role) for role in Role}
        self._router_keys = ChannelKeys.make()
        self._last_epoch = int(time.time())
        self._creating: set[asyncio.Task[object]] = set()
        self._removing: set[asyncio.Task[object]] = set()
        self._relabelling: set[WorkerId] = set()
        """Workers that are being told a role."""
        self._granting: set[WorkerId] = set()
        """Workers of which a person's wish is being carried out."""
        self._waiting_creates: dict[Role, int] = dict.fromkeys(Role, 0)
        self._changed = asyncio.Condition()
        self._failures: deque[dict[str, Any]] = deque(maxlen=20)
        self._start_s: dict[Role, float] = {}
        """How long the newest start of each role took."""
        self._told_version = -1
        self._routers = RoutersHeard()
        self._tally = PoolTally()
        self._ray_metrics = RayMetrics()
        self._asked: set[WorkerId] = set()
        self._found: set[WorkerId] = set()
        self._claims = None
        if budget is not None and terms_of(self._config).claims:
            self._claims = BudgetClaims(lambda claim: budget.claim.remote(served_name, claim), costs(self._config), budget_gpus)
        self._scaling = self._make_scaling() if scaled else None
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

        def has_news() -> bool:
            # Not before the first step: a restarted controller has yet to find the workers, and an empty answer would make
            # routers drop them. Not ">": after a restart the versions start anew.
            return self._told_version >= 0 and self._members.version != known_version

        async with self._changed:
            try:
                async with asyncio.timeout(_LONG_POLL_S):
                    await self._changed.wait_for(has_news)
            except TimeoutError:
                return None
            return Membership(self._members.version, self._members.cards(), self._router_keys, self._coming())

    def _coming(self) -> Coming:
        scales = self._config.autoscaling.enabled and not self._config.autoscaling.dry_run
        return coming(self._members, self._wanted, self._start_s, scales, time.time())

    async def status(self) -> dict[str, Any]:
        """Pools and workers as plain data, for ``baton status``."""
        return self._status()

    async def targets(self) -> list[dict[str, Any]]:
        """Whom Prometheus is to scrape, as its ``http_sd_configs`` want it."""
        of_ray = await self._ray_metrics.addresses()
        there = {record.worker for record in self._members if record.state is not WorkerState.GONE}
        workers = {worker: report.metrics_address for worker, report in self._reports.items() if worker in there and report.metrics_address}
        return scrape_targets(self._app, self._metrics_address, self._routers.present(time.monotonic()), workers, of_ray)

    async def scaling(self, last: int = 1) -> dict[str, Any]:
        """The newest plans of the autoscaler and what plans have asked for last, the newest first, as plain data."""
        wanted = {str(role): count for role, count in self._wanted.items()}
        plans = [] if self._scaling is None else [turn.as_dict() for turn in self._scaling.newest(last)]
        actions = [] if self._scaling is None else [msgspec.to_builtins(asked) for asked in self._scaling.actions.newest()]
        config = self._config.autoscaling.model_dump(mode="json", exclude={"prometheus", "prometheus_token_env"})
        told = {"app": self._app, "enabled": self._scaling is not None, "wanted": wanted, "config": config}
        return {**told, "plans": plans, "actions": actions}

    def _readings(self) -> Sequence[Reading]:
        of_scaling = () if self._scaling is None else self._scaling.tally.readings()
        return (*self._tally.readings(self._members, self._wanted, len(self._present_routers())), *of_scaling)

    def _present_routers(self) -> Mapping[RouterId, str]:
        return self._routers.present(time.monotonic())

    def _status(self) -> dict[str, Any]:
        now = time.time()
        workers = [self._describe(record, now) for record in self._members]
        wanted = {str(role): count for role, count in self._wanted.items()}
        return {"app": self._app, "model": self._config.served_name, "wanted": wanted, "workers": workers, "failures": list(self._failures)}

    async def stop_workers(self) -> None:
        """Ends every worker, now. The application is being taken down."""
        self._wanted = dict.fromkeys(Role, 0)
        self._loop_task.cancel()
        if self._scaling_task is not None:
            self._scaling_task.cancel()
        for task in (*self._creating, *self._hearing.values()):
            task.cancel()
        await asyncio.gather(*self._removing, *(self._placement.remove(r.worker) for r in self._members), return_exceptions=True)
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
        await self._tell_role(worker, role)
        was = self._fit(worker, WorkerState.READY, role, f"become a {role} worker")  # meanwhile it may have died, or been relabelled
        if was.role is not role:
            self._apply(worker, RoleChanged(role))
            self._want({was.role: -1, role: 1})
            log.info("controller: %s is a %s worker from now on", worker, role)
            await self._tell_routers_now()

    async def sleep(self, worker: WorkerId) -> None:
        """Has a ready worker end what it has and then sleep until ``wake``; its pool is to have one less. One whose engine cannot sleep
        ends instead. Returns when routers are being told; raises WorkerUnfitError."""
        record = self._fit(worker, WorkerState.READY, None, "sleep")
        can_sleep = record.card is not None and record.card.facts.can_sleep
        self._apply(worker, SleepAsked() if can_sleep else DrainAsked())
        self._want({record.role: -1})
        await self._tell_routers_now()

    async def wake(self, worker: WorkerId, role: Role) -> None:
        """Has a sleeping worker serve again, with this role; that pool is to have one more. Returns when the worker is being told: it is
        ``starting`` then, for as long as its engine takes to wake. Raises as ``relabel`` does."""
        role = Role(role)
        if self._fit(worker, WorkerState.SLEEPING, role, f"wake as a {role} worker").role is not role:
            await self._tell_role(worker, role)
        self._fit(worker, WorkerState.SLEEPING, role, f"wake as a {role} worker")
        self._apply(worker, RoleChanged(role))
        self._apply(worker, WakeAsked())
        self._want({role: 1})

    def _fit(self, worker: WorkerId, state: WorkerState, role: Role | None, wish: str) -> WorkerRecord:
        record = self._members.get(worker)
        if reason := unfit(record, state, role, self._hashes, self._differing):
            raise WorkerUnfitError(worker, wish, reason)
        assert record is not None
        return record

    async def _tell_role(self, worker: WorkerId, role: Role) -> None:
        # Before anybody else: it is the worker that a restarted controller learns the role from.
        self._relabelling.add(worker)
        try:
            if not (await self._placement.relabel(worker, role) or await self._placement.relabel(worker, role)):
                raise WorkerLostError(worker, "it does not answer")
        finally:
            self._relabelling.discard(worker)

    def _want(self, more: Mapping[Role, int]) -> None:
        """So many more of a role, or fewer: also for the next controller, unless the configuration's numbers change."""
        for role, number in more.items():
            self._wanted[role] = max(0, self._wanted[role] + number)
        board.keep_wanted(self._app, self._configured, {str(role): count for role, count in self._wanted.items()})

    def _grant_wishes(self) -> None:
        """Apart from the loop: a worker that does not answer is waited for."""
        for worker, role in board.asked_roles(self._app).items():
            if worker not in self._granting:
                self._granting.add(worker)
                self._spawn(self._grant(worker, role), self._removing)

    async def _grant(self, worker: WorkerId, role: str) -> None:
        why_not = ""
        try:
            await self.relabel(worker, Role(role))
        except (BatonError, ValueError) as error:
            why_not = str(error)
        finally:
            self._granting.discard(worker)
        board.answer_role(self._app, worker, why_not)

    async def _tell_routers_now(self) -> None:
        if self._told_version >= 0:  # else not all workers are known yet, and nobody is told before that
            await self._tell_routers()

    async def _tell_routers(self) -> None:
        if self._told_version != self._members.version:
            async with self._changed:
                self._told_version = self._members.version
                self._changed.notify_all()

    # -- scaling -------------------------------------------------------------------------------------------------------

    def _make_scaling(self) -> Scaling:
        config = self._config.autoscaling
        source = make_source(config, self._app, self._present_routers)
        keep = partial(board.keep_scaler, self._app)
        kept = board.kept_scaler(self._app)
        return Scaling(make_scaler(self._config), source, self, config.interval_s, config.dry_run, keep, kept, claims=self._claims)

    async def _scale(self, scaling: Scaling) -> None:
        if needs_seasons(self._config):
            await asyncio.to_thread(seasonal.load)
            gc.collect()
            gc.freeze()  # the collector's rounds are 60 ms longer otherwise
        await scaling.run()

    def workers(self) -> tuple[WorkerSignal, ...]:
        """As the scaler is told of them."""
        return worker_signals(self._members, self._reports, self._wanted, self._is_outgoing, self._found, time.time())

    async def drain(self, worker: WorkerId, role: Role) -> None:
        """Lets this very worker go, or one that is not there yet; its pool is to have one less."""
        record = self._members.get(worker)
        self._apply(worker, DrainAsked())
        self._want({role if record is None else record.role: -1})

    async def add(self, role: Role, count: int) -> None:
        """The pool is to have so many more: they are created at the next step, at once."""
        self._want({role: count})

    def _is_outgoing(self, record: WorkerRecord) -> bool:
        return record.spec_hash != self._hashes[record.role] or record.worker in self._asked

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Adopts what is there, then steps for ever."""
        self._metrics_address = await self._listener.open()
        if kept := board.kept_wanted(self._app, self._configured):
            self._wanted = {role: kept[role] for role in Role}
        for spec in await self._placement.find():
            self._adopt(spec)
        if self._claims is not None:
            here = {role: sum(record.role is role for record in self._members) for role in Role}
            self._wanted = dict(await self._claims.begins_with(self._wanted, here))
        await self._hear_all(_BEAT_TIMEOUT_S)  # what is adopted is ready or draining already: routers must not be told otherwise
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
        await self._hear_all(_STEP_WAITS_S)
        self._grant_wishes()
        asked = self._asked = board.asked_to_drain(self._app)
        waiting = self._waiting_creates
        for action in reconcile(self._members, self._wanted, self._hashes, time.time(), self._surge, asked, waiting):
            if isinstance(action, Create):
                self._create_later(action)
            elif isinstance(action, Drain):
                self._apply(action.worker, DrainAsked())
        for worker in asked:
            record = self._members.get(worker)
            if record is None or record.state is WorkerState.GONE:
                board.forget_drain(self._app, worker)
        self._forget_replaced()
        board.post(self._app, self._status())
        await self._tell_routers()

    def _adopt(self, spec: WorkerSpec) -> None:
        self._router_keys = spec.router_keys  # all workers of an application share them
        self._last_epoch = max(self._last_epoch, spec.epoch)
        now = time.time()
        self._members.enter(WorkerRecord(spec.worker, spec.role, spec.epoch, spec.spec_hash, now, heard_at_s=now, restarts=spec.restarts))
        self._tally.adopted(spec.worker)
        self._found.add(spec.worker)
        log.info("controller: adopted %s", spec.worker)

    async def _hear_all(self, wait_s: float) -> None:
        """Asks every worker how it is, those apart that have not answered the last time; and lets time pass for all."""
        for record in self._members:
            if record.state is not WorkerState.GONE and record.worker not in self._hearing:
                self._hearing[record.worker] = asyncio.get_running_loop().create_task(self._hear(record.worker))
        if self._hearing:
            await asyncio.wait(self._hearing.values(), timeout=wait_s)
        for worker, task in list(self._hearing.items()):
            if task.done():
                del self._hearing[worker]
                if error := task.exception():
                    log.error("controller: %s could not be heard: %r", worker, error)
        for record in self._members:
            self._apply(record.worker, TimePassed())

    async def _hear(self, worker: WorkerId) -> None:
        try:
            report = await self._placement.beat(worker, _BEAT_TIMEOUT_S)
        except ray.exceptions.ActorUnavailableError:
            return  # a hiccup of the network; silence that lasts is noticed as time passes
        except ray.exceptions.RayError as error:
            self._apply(worker, Died(_first_line(error)))
            return
        record = self._members.get(worker)
        if report is None or record is None:
            return
        self._reports[worker] = report
        for event in heard(record, report, self._limits[record.role].silence_s):
            self._apply(worker, event)

    def _limits_of(self, role: Role) -> Limits:
        pool = self._config.pool(role)
        drain_s = hard_limit_s(pool.drain_timeout_s, self._config.kv_transfer.lease_s)
        return Limits(pool.start_timeout_s, pool.silence_timeout_s, drain_s)

    def _apply(self, worker: WorkerId, event: Event) -> None:
        record = self._members.get(worker)
        if record is None:
            return
        now = time.time()
        instructions = self._members.apply(worker, event, now, self._limits[record.role])
        after = self._members.get(worker) or record
        self._tally.changed(record, after, now)
        if record.ready_after_s is None and after.ready_after_s is not None and worker not in self._found:
            self._start_s[after.role] = after.ready_after_s
        for instruction in instructions:
            if isinstance(instruction, Kill):
                self._gone(worker)
                self._spawn(self._placement.remove(worker), self._removing)
            elif isinstance(instruction, TellDraining):
                log.info("controller: %s drains", worker)
                self._spawn(self._placement.drain(worker, self._config.pool(record.role).drain_timeout_s), self._removing)
            elif isinstance(instruction, TellRole):
                if worker not in self._relabelling:  # else its beat was faster than its answer
                    self._spawn(self._placement.relabel(worker, instruction.role), self._removing)
            else:
                self._spawn(self._placement.rest(worker, asleep=not isinstance(instruction, TellWake)), self._removing)

    def _gone(self, worker: WorkerId) -> None:
        record = self._members.get(worker)
        assert record is not None
        log.warning("controller: %s is gone: %s", worker, record.phase)
        if record.phase not in WELL_ENDED:
            self._failures.append({"worker": worker, "at": time.time(), "reason": record.phase, "was_ready": record.card is not None})

    def _create_later(self, action: Create) -> None:
        self._waiting_creates[action.role] += 1
        self._consume_dead(action.role)
        self._spawn(self._create(action), self._creating)

    def _consume_dead(self, role: Role) -> None:
        """One dead record is being replaced: it must not be counted as the cause of a second replacement."""
        dead = [r for r in self._members if r.role is role and r.state is WorkerState.GONE and not r.was_to_go]
        if dead:
            self._members.remove(dead[0].worker)
            self._reports.pop(dead[0].worker, None)

    async def _create(self, action: Create) -> None:
        try:
            if action.after_s:
                log.warning("controller: a %s worker died %d times; next try in %.0f s", action.role, action.restarts, action.after_s)
                await asyncio.sleep(action.after_s)
                if sum(record.role is action.role for record in self._members if record.state in PRESENT) >= self._wanted[action.role]:
                    return  # meanwhile it is wanted no more
            self._last_epoch += 1
            spec = WorkerSpec(
                app=self._app,
                worker=WorkerId(f"{action.role}-{secrets.token_hex(3)}"),
                role=action.role,
                epoch=Epoch(self._last_epoch),
                spec_hash=self._hashes[action.role],
                config=self._config.model_dump(mode="json"),
                worker_keys=ChannelKeys.make(),
                router_keys=self._router_keys,
                restarts=action.restarts,
            )
            self._tally.started(action.role, action.restarts)
            now = time.time()
            self._members.enter(
                WorkerRecord(spec.worker, spec.role, spec.epoch, spec.spec_hash, now, heard_at_s=now, restarts=action.restarts)
            )
            try:
                await self._placement.create(spec, self._config.pool(action.role), self._config.engine.env)
            except Exception as error:  # whatever Ray did not like, the worker is not there
                self._apply(spec.worker, Died(_first_line(error)))
        finally:
            self._waiting_creates[action.role] -= 1

    def _forget_replaced(self) -> None:
        """Gone workers nobody waits for: those that were to go."""
        for record in self._members:
            if record.state is WorkerState.GONE and record.was_to_go:
                self._members.remove(record.worker)
                self._reports.pop(record.worker, None)

    def _spawn(self, work: Coroutine[Any, Any, object], kept: set[asyncio.Task[object]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        kept.add(task)
        task.add_done_callback(kept.discard)

    def _describe(self, record: WorkerRecord, now: float) -> dict[str, Any]:
        report = self._reports.get(record.worker, WorkerReport(record.phase))
        return {
            "worker": record.worker,
            "role": str(record.role),
            "state": str(record.state),
            "phase": record.phase,
            "epoch": record.epoch,
            "age_s": round(now - record.created_at_s, 1),
            "ready_after_s": record.ready_after_s and round(record.ready_after_s, 1),
            "restarts": record.restarts,
            "address": record.card.address if record.card else None,
            "node": report.node,
            "pid": report.pid,
            "running": report.load.running,
            "waiting": report.load.waiting,
            "free_blocks": report.load.free_blocks,
            "num_blocks": report.load.num_blocks,
            "leased_blocks": report.load.leased_blocks,
            "stranded_blocks": report.load.stranded_blocks,
            "draining_s": record.draining_since_s and round(now - record.draining_since_s, 1),
            "received_bytes": report.received_bytes,
            "computed_prompt_tokens": report.computed_prompt_tokens,
        }


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
