"""Baton's scaler: sizes both pools together for what is to come, relabels at once for what is here, and lets go slowly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from autoscaler.base import Scaler
from autoscaler.burst import burst
from autoscaler.capacity import Engine, Shape, typical
from autoscaler.demand import UNSEEN_OUTPUT_TOKENS, Demand, demand, somebody_waits
from autoscaler.growth import Growth, grow, missing
from autoscaler.labels import OTHER, relabels, to_minima
from autoscaler.memory import BatonState, PoolMemory, Wanted
from autoscaler.outlook import outlook
from autoscaler.plan import Drain, Plan, Relabel
from autoscaler.policy import ScalerLimits, ScalerPolicy
from autoscaler.report import Findings, find, pool_report, warnings
from autoscaler.schedule import limits_at
from autoscaler.shrink import beyond_limits, drains, not_wanted
from autoscaler.signals import Phase, Signals, present
from autoscaler.sizing import Need, Pool, fit
from core.worker import Role

_ANY = Shape(1.0, 0.0, 1.0)
"""A request, while nobody has asked for any."""


class BatonScaler(Scaler[BatonState]):
    """See ``ScalerPolicy`` for what it goes by, and ``Outlook`` for what it does about it."""

    name = "baton"

    def __init__(self, limits: ScalerLimits, policy: ScalerPolicy) -> None:
        self._limits = limits
        self._policy = policy

    def first(self) -> BatonState:
        return BatonState()

    def plan(self, signals: Signals, state: BatonState, now_s: float) -> tuple[Plan, BatonState]:
        stale_s = self._policy.stale_s
        state, now_s = state.at(now_s, stale_s)
        state = state.with_pools(
            {role: state.pool(role).seen(typical(signals.workers, role), signals.of(role, Phase.READY)) for role in Role}
        )
        asked = demand(signals, stale_s)
        rate = None if isinstance(asked, str) else asked.requests_per_s
        usual = state.usual.seen(state.usual.means.seen(signals, stale_s), rate, now_s)
        state = msgspec.structs.replace(state, usual=usual, before=state.before.seen(usual, now_s))
        step = _Step(self._limits, self._policy, signals, state, now_s)
        if isinstance(asked, str):
            return step.hold(asked)
        if usual.requests_per_s is not None:
            asked = msgspec.structs.replace(asked, requests_per_s=usual.requests_per_s)
        if asked.any and usual.means.shape is None:
            return step.hold("no prompt has been read yet: how long they are is not known")
        return step.decide(asked, usual.means.shape or _ANY)


class _Step:
    """One plan in the making."""

    def __init__(self, limits: ScalerLimits, policy: ScalerPolicy, signals: Signals, state: BatonState, now_s: float) -> None:
        self._limits = limits
        self._policy = policy
        self._signals = signals
        self._before = self._state = state
        self._now_s = now_s
        self._swap = policy.relabel and limits.alike
        self._mixed = policy.mixes and limits.alike
        grant = signals.granted
        self._budget = limits.budget if grant is None else min(limits.budget, grant.gpus)
        self._budget_text = f"{self._budget:g} GPUs" if grant is None or limits.budget < grant.gpus else f"{grant.text} GPUs"
        self._findings = {role: Findings() for role in Role}
        self._pools: dict[Role, Pool] = {}
        for role in Role:
            bounds, windows = limits_at(limits, role, now_s)
            self._pools[role] = Pool(bounds.min_workers, bounds.max_workers, bounds.gpus_per_worker)
            if windows:
                self._note(role, f"limits of {windows}")

    def hold(self, reason: str) -> tuple[Plan, BatonState]:
        """What there was is kept: workers that died are replaced, nobody leaves, nobody changes. One worker of each role is started
        where somebody is known to wait."""
        least = int(somebody_waits(self._signals, self._policy.stale_s))
        have, self._state = self._have(), self._state.looked_away()
        targets = {role: self._state.pool(role).target for role in Role}
        known = {role: have[role] if target is None else target for role, target in targets.items()}
        wanted = {role: pool.clamp(max(known[role], least)) for role, pool in self._pools.items()}
        # Whoever has another role by now than the last plan meant it to have is not missing.
        able = have if self._limits.alike else dict.fromkeys(have, 0)
        short = missing(wanted, have, {role: max(self._pools[role].least, least) for role in Role}, able)
        self._would_like({role: have[role] + short[role] for role in Role})
        return self._finish([], self._grow(short), [], held=reason)

    def decide(self, asked: Demand, shape: Shape) -> tuple[Plan, BatonState]:
        """Acts on what is asked, and on what will be."""
        self._remember(asked, shape)
        policy, pools = self._policy, self._pools
        horizons_s = {role: self._horizon_s(self._state.pool(role)) for role in Role}
        forecasts = {
            role: self._state.pool(role).track.ahead(policy.forecast, self._now_s, horizons_s[role], policy.season_s, policy.safety)
            for role in Role
        }
        sudden = burst(self._signals.traffic.latest, self._state.before.then, policy.burstiness)
        look = outlook(asked, shape, sudden, forecasts, {role: self._engine(role) for role in Role}, policy, self._mixed)
        find(self._findings, asked, shape, {role: (forecasts[role], horizons_s[role]) for role in Role}, look)

        moves = self._relabels(look.now)
        have = self._have(moves)
        wanted = self._not_yet_quiet(fit(look.then, pools, self._budget))
        growth = self._grow(missing(wanted, have, {role: pool.least for role, pool in pools.items()}, self._able(moves, horizons_s)))
        least, most = look.least.counts(), look.then.counts()
        self._would_like(self._not_yet_quiet({role: pool.clamp(most[role]) for role, pool in pools.items()}))
        keep = self._not_yet_quiet({role: pool.clamp(least[role]) for role, pool in pools.items()})
        patience_s = policy.patience_s(max(horizons_s.values()))
        self._state = self._state.watching(Wanted(self._now_s, keep[Role.PREFILL], keep[Role.DECODE]), patience_s)
        leaving = self._leaving(have, wanted, keep, growth, moves, patience_s)
        for role, pool in pools.items():
            self._explain_limits(role, pool, most[role], wanted[role])
        warned = self._warnings(asked, look.then, wanted)
        if sudden is not None:
            warned.append(f"a burst, of which only roles know: {sudden.text}")
        return self._finish(moves, growth, leaving, warned=warned)

    # -- what is remembered --------------------------------------------------------------------------------------------

    def _remember(self, asked: Demand, shape: Shape) -> None:
        pools: dict[Role, PoolMemory] = {}
        fits = True  # one season a turn
        for role in Role:
            memory = self._state.pool(role)
            track = memory.track.seen(asked.tokens_per_s(role, shape), self._now_s, self._horizon_s(memory), self._policy.season_s, fits)
            fits = fits and track.series.part == memory.track.series.part
            pools[role] = msgspec.structs.replace(memory, track=track)
        busy_s = self._now_s if asked.any or self._state.busy_s is None else self._state.busy_s
        self._state = msgspec.structs.replace(self._state.with_pools(pools), busy_s=busy_s)

    def _horizon_s(self, memory: PoolMemory) -> float:
        return self._policy.start_up_s if memory.start_up_s is None else memory.start_up_s

    def _engine(self, role: Role) -> Engine | None:
        """The measured one, or the one that was expected."""
        measured, prior = self._state.pool(role).engine, self._policy.prior
        if measured is not None or prior is None:
            return measured
        facts = self._state.pool(role).facts or self._state.pool(OTHER[role]).facts
        return None if facts is None else Engine(prior, facts)

    # -- what is done --------------------------------------------------------------------------------------------------

    def _have(self, moves: Sequence[Relabel] = ()) -> dict[Role, int]:
        """Ready and starting workers, once these have moved."""
        have = {role: len(present(self._signals.of(role))) for role in Role}
        for move in moves:
            have[move.role] += 1
            have[OTHER[move.role]] -= 1
        return have

    def _able(self, moves: Sequence[Relabel], horizons_s: Mapping[Role, float]) -> dict[Role, int]:
        """Workers of each role that can change it, now or when they come. Those that took twice as long as others and have not come may
        never; who is to be replaced does not change."""
        if not self._swap:
            return dict.fromkeys(Role, 0)
        moved = {move.worker: move.role for move in moves}
        able = Counter(
            moved.get(worker.worker, worker.role)
            for worker in present(self._signals.workers)
            if not worker.outgoing and (worker.phase is Phase.READY or worker.age_s <= 2 * horizons_s[worker.role])
        )
        return {role: able[role] for role in Role}

    def _not_yet_quiet(self, wanted: Mapping[Role, int]) -> dict[Role, int]:
        """While it is not long since anybody wanted anything, no pool ends."""
        busy_s = self._state.busy_s
        least = int(busy_s is not None and self._now_s - busy_s < self._policy.zero_after_s)
        return {role: max(count, min(least, self._pools[role].most)) for role, count in wanted.items()}

    def _relabels(self, now: Need) -> list[Relabel]:
        if not self._swap:
            return []
        state = self._state
        rests = state.relabelled_s is not None and self._now_s - state.relabelled_s < self._policy.relabel_rest_s
        ready = {role: self._signals.of(role, Phase.READY) for role in Role}
        moves = to_minima(self._pools, self._have(), ready)
        if not moves:
            moves = relabels(now, self._pools, ready, self._policy.relabel_gain, state.relabelled_to if rests else None)
        if moves:
            self._state = msgspec.structs.replace(state, relabelled_s=self._now_s, relabelled_to=moves[0].role)
        return moves

    def _grow(self, short: Mapping[Role, int]) -> Growth:
        cost = {role: pool.cost for role, pool in self._pools.items()}
        held = sum(cost[worker.role] for worker in self._signals.workers)
        sleeping = [worker for worker in self._signals.workers if worker.phase is Phase.SLEEPING and not worker.outgoing]
        growth = grow(short, sleeping, cost, self._budget - held, self._swap)
        for role, count in growth.no_room.items():
            self._limit(role, f"{count} more when there are GPUs: {held:g} of {self._budget_text} are held")
        return growth

    def _leaving(
        self,
        have: Mapping[Role, int],
        wanted: Mapping[Role, int],
        keep: Mapping[Role, int],
        growth: Growth,
        moves: Sequence[Relabel],
        patience_s: float,
    ) -> list[Drain]:
        gone = beyond_limits(have, wanted, self._pools, self._budget)
        if not any(gone.values()) and not moves:
            gone = not_wanted(have, keep, growth, self._state, self._policy, patience_s, self._now_s, self._swap)
            if any(gone.values()):
                self._state = msgspec.structs.replace(self._state, shrunk_s=self._now_s)
        moved = {move.worker for move in moves}
        beds = self._policy.keep_asleep - sum(worker.phase is Phase.SLEEPING for worker in self._signals.workers)
        leaving = self._woken_by_nobody(growth)
        for role, count in gone.items():
            staying = [worker for worker in present(self._signals.of(role)) if worker.worker not in moved]
            leaving += drains(staying, role, count, max(0, beds - sum(drain.then_sleep for drain in leaving)))
        return leaving

    def _woken_by_nobody(self, growth: Growth) -> list[Drain]:
        """Sleepers that hold the GPUs of a pool they cannot wake for: as many as it takes."""
        woken = {wake.worker for wake in growth.wakes}
        needed = sum(self._pools[role].cost * count for role, count in growth.no_room.items())
        ended: list[Drain] = []
        for worker in self._signals.workers:
            if needed > 1e-9 and worker.phase is Phase.SLEEPING and worker.worker not in woken:
                ended.append(Drain(worker.worker, worker.role))
                needed -= self._pools[worker.role].cost
        return ended

    # -- what is said --------------------------------------------------------------------------------------------------

    def _warnings(self, asked: Demand, need: Need, wanted: Mapping[Role, int]) -> list[str]:
        """Of what is not known there is nothing to say while nobody asks for anything."""
        if not asked.any:
            return []
        texts = warnings(need, self._policy.objective.tpot_s, wanted)
        if self._state.usual.means.output_tokens is None:
            texts.append(f"no answer has ended yet: {UNSEEN_OUTPUT_TOKENS:.0f} tokens each are assumed")
        return texts

    def _would_like(self, counts: Mapping[Role, int]) -> None:
        for role, count in counts.items():
            self._findings[role].within_limits = count

    def _note(self, role: Role, text: str) -> None:
        self._findings[role].clamps.append(text)

    def _limit(self, role: Role, text: str) -> None:
        """What keeps a pool small, where a note may be of anything."""
        self._note(role, text)
        self._findings[role].limited = True

    def _explain_limits(self, role: Role, pool: Pool, needed: int, wanted: int) -> None:
        if wanted > needed:
            self._note(role, f"at least {pool.least}" if wanted == pool.least else "not quiet for long enough to end")
        elif needed > pool.most:
            self._limit(role, f"at most {pool.most}")
        elif wanted < needed:
            self._limit(role, f"{wanted} of {needed} within {self._budget_text}")

    def _finish(
        self, moves: Sequence[Relabel], growth: Growth, leaving: Sequence[Drain], held: str = "", warned: Sequence[str] = ()
    ) -> tuple[Plan, BatonState]:
        have = self._have(moves)
        asleep = {worker.worker for worker in self._signals.workers if worker.phase is Phase.SLEEPING}
        for drain in leaving:
            have[drain.role] -= drain.worker not in asleep
        targets = {role: have[role] + growth.by(role) for role in Role}
        state, before = self._state, self._before
        if self._policy.dry_run:  # nothing of it happens
            state = msgspec.structs.replace(
                state, shrunk_s=before.shrunk_s, relabelled_s=before.relabelled_s, relabelled_to=before.relabelled_to
            )
        else:
            state = state.with_pools({role: msgspec.structs.replace(state.pool(role), target=targets[role]) for role in Role})
        plan = Plan(
            self._now_s,
            BatonScaler.name,
            tuple(pool_report(role, self._signals, targets[role], self._findings[role]) for role in Role),
            (*moves, *growth.wakes, *growth.adds, *leaving),
            held,
            tuple(warned),
            self._policy.dry_run,
        )
        return plan, state
