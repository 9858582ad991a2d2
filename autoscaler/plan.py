"""What a scaler decided, and why: for machines to carry out, and for people to read."""

from __future__ import annotations

import msgspec

from core.ids import WorkerId
from core.worker import Role


class Relabel(msgspec.Struct, frozen=True, tag=True):
    """Give a ready worker this role. What it runs ends where it is."""

    worker: WorkerId
    role: Role


class Wake(msgspec.Struct, frozen=True, tag=True):
    """Wake a sleeping worker, as one of this role."""

    worker: WorkerId
    role: Role


class Add(msgspec.Struct, frozen=True, tag=True):
    """Start so many workers."""

    role: Role
    count: int


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Let a worker end what it runs, and then end it, or put it to sleep."""

    worker: WorkerId
    role: Role
    then_sleep: bool = False


Action = Relabel | Wake | Add | Drain


class PoolReport(msgspec.Struct, frozen=True):
    """How the number of one pool's workers came about. None: not known, or not used by this scaler."""

    role: Role
    ready: int
    starting: int
    target: int
    """Ready and starting workers once the plan is carried out."""
    sleeping: int = 0
    draining: int = 0
    demand_tokens_per_s: float | None = None
    """Prompt tokens to compute, for prefill; output tokens, for decode."""
    forecast_tokens_per_s: float | None = None
    """The same when a worker started now would be ready, with the margin for the forecast's usual error."""
    forecast_by: str = ""
    horizon_s: float | None = None
    backlog_tokens: float | None = None
    worker_tokens_per_s: float | None = None
    """What one worker does at most within the objective."""
    wanted_now: int | None = None
    wanted: int | None = None
    """For the forecast, before limits and budget."""
    clamps: tuple[str, ...] = ()
    within_limits: int | None = None
    """``wanted`` within the pool's own limits, whatever the budget."""
    limited: bool = False
    """Its limits or the budget keep it smaller than it would be. A minimum does not, nor does a window that changes nothing."""

    @property
    def text(self) -> str:
        """One line."""
        rest = f", {self.sleeping} asleep" * bool(self.sleeping) + f", {self.draining} leaving" * bool(self.draining)
        parts = [f"{self.role}: {self.ready} ready, {self.starting} starting{rest} -> {self.target}"]
        if self.demand_tokens_per_s is not None:
            parts.append(f"demand {self.demand_tokens_per_s:.0f} tokens/s")
        if self.backlog_tokens:
            parts.append(f"{self.backlog_tokens:.0f} tokens wait")
        if self.forecast_tokens_per_s is not None and self.horizon_s is not None:
            parts.append(f"forecast ({self.forecast_by}) {self.forecast_tokens_per_s:.0f} in {self.horizon_s:.0f} s")
        if self.worker_tokens_per_s is not None:
            parts.append(f"a worker does {self.worker_tokens_per_s:.0f}")
        if self.wanted is not None:
            now = "" if self.wanted_now is None else f"{self.wanted_now} now, "
            parts.append(f"wanted {now}{self.wanted} then")
        return "; ".join([*parts, *self.clamps])


class Plan(msgspec.Struct, frozen=True):
    """One decision. ``msgspec.json`` takes it as it is."""

    at_s: float
    """Unix time."""
    scaler: str
    pools: tuple[PoolReport, ...] = ()
    actions: tuple[Action, ...] = ()
    """In the order in which they are to be begun."""
    held: str = ""
    """Why nothing was decided anew; empty: it was."""
    warnings: tuple[str, ...] = ()
    """What cannot be reached, and what was assumed."""
    dry_run: bool = False
    """Nobody carries it out."""

    def target(self, role: Role) -> int | None:
        """Workers of a role once the plan is carried out."""
        return next((pool.target for pool in self.pools if pool.role is role), None)

    @property
    def text(self) -> str:
        """For a log: a line per pool, and one each for what is done, held and warned of."""
        lines = [pool.text for pool in self.pools]
        if self.held:
            lines.append(f"held: {self.held}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        would = "would " if self.dry_run else ""
        lines.append(f"{would}do: " + (", ".join(map(said, self.actions)) or "nothing"))
        return "\n".join(lines)


def said(action: Action) -> str:
    """In words."""
    match action:
        case Relabel():
            return f"relabel {action.worker} to {action.role}"
        case Wake():
            return f"wake {action.worker} for {action.role}"
        case Add():
            return f"add {action.count} to {action.role}"
        case Drain():
            return f"drain {action.worker} of {action.role}" + (", then let it sleep" if action.then_sleep else "")
