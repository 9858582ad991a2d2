"""The pools as one router sees them: sums over all workers, and those workers by name that one would look at first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from core.ids import WorkerId
from core.worker import Role, WorkerCard, WorkerState
from router.plan import View, WorkerView

MOST_WORKERS = 24
"""By name, of each pool."""

UNREACHABLE = "unreachable"
"""A member that this router has no connection to, whatever the controller says of it."""


class WorkerRow(msgspec.Struct, frozen=True):
    """One worker."""

    worker: WorkerId
    role: str
    state: str
    """A ``WorkerState``, or ``unreachable``."""
    phase: str = ""
    """How far its start is, or why it is gone."""
    running: int = 0
    waiting: int = 0
    """In its engine's queue."""
    prompt_tokens: int = 0
    """Of prompts it has been sent and not computed yet, by all routers."""
    free_blocks: int = 0
    num_blocks: int = 0
    leased_blocks: int = 0
    stranded_blocks: int = 0
    refused: str = ""
    """Why it takes no more now."""

    @property
    def busy(self) -> tuple[bool, int, int]:
        """Those in trouble first, then those with the most to do."""
        return self.state != WorkerState.READY, self.running + self.waiting, self.num_blocks - self.free_blocks


class PoolRow(msgspec.Struct, frozen=True):
    """All workers of one role."""

    role: str
    wanted: int | None
    """None: the controller has not said."""
    states: dict[str, int]
    """How many are in which."""
    running: int
    waiting: int
    prompt_tokens: int
    free_blocks: int
    num_blocks: int
    leased_blocks: int
    stranded_blocks: int
    workers: list[WorkerRow]
    left_out: int
    """Workers that are not in the list."""


def pools(view: View, unreachable: Iterable[WorkerCard], status: Mapping[str, Any]) -> list[PoolRow]:
    """One row per role. ``status`` is what the controller said last, for workers that no router can know of yet; it may be empty."""
    told = {worker["worker"]: worker for worker in status.get("workers", ())}
    rows = [_reachable(name, seen, told.get(name, {})) for name, seen in view.items()]
    rows += [WorkerRow(card.worker, card.role, UNREACHABLE, told.get(card.worker, {}).get("phase", "")) for card in unreachable]
    known = {row.worker for row in rows}
    rows += [WorkerRow(name, one["role"], one["state"], one["phase"]) for name, one in told.items() if name not in known]
    wanted = status.get("wanted", {})
    return [_pool(role, wanted.get(role), [row for row in rows if row.role == role]) for role in Role]


def _reachable(name: WorkerId, seen: WorkerView, told: Mapping[str, Any]) -> WorkerRow:
    load = seen.load
    return WorkerRow(
        name,
        seen.card.role,
        seen.card.state,
        told.get("phase", ""),
        load.running,
        load.waiting,
        seen.outstanding_prefill_tokens + load.others.prompt_tokens,
        load.free_blocks,
        load.num_blocks,
        load.leased_blocks,
        load.stranded_blocks,
        seen.refused,
    )


def _pool(role: Role, wanted: int | None, rows: list[WorkerRow]) -> PoolRow:
    states: dict[str, int] = {}
    for row in rows:
        states[row.state] = states.get(row.state, 0) + 1
    first = sorted(rows, key=lambda row: row.busy, reverse=True)[:MOST_WORKERS]
    return PoolRow(
        role,
        wanted,
        states,
        sum(row.running for row in rows),
        sum(row.waiting for row in rows),
        sum(row.prompt_tokens for row in rows),
        sum(row.free_blocks for row in rows),
        sum(row.num_blocks for row in rows),
        sum(row.leased_blocks for row in rows),
        sum(row.stranded_blocks for row in rows),
        sorted(first, key=lambda row: row.worker),  # so that rows stay where they are while loads change
        len(rows) - len(first),
    )
