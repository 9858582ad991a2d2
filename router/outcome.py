"""How a request ended, in the words by which it is counted and traced."""

from __future__ import annotations

from core.metrics.words import Outcome, PlanKind, Why
from router.events import FailKind
from router.instructions import Fail
from router.reason import why_of
from router.timeline import Timeline

_FAILED = {
    FailKind.OVERLOADED: Outcome.REFUSED,
    FailKind.UNAVAILABLE: Outcome.REFUSED,
    FailKind.LOST: Outcome.LOST,
    FailKind.ENGINE: Outcome.ENGINE,
    FailKind.ABSENT: Outcome.ENGINE,
    FailKind.TIMED_OUT: Outcome.TIMED_OUT,
    FailKind.NEVER: Outcome.REFUSED,
}
_ENDED = {"finished": Outcome.FINISHED, "stopped": Outcome.STOPPED}
WELL = frozenset(_ENDED.values())


def outcome_of(timeline: Timeline, fail: Fail | None) -> Outcome:
    """``fail`` is what its client was told instead of an end."""
    return _FAILED[fail.kind] if fail is not None else _ENDED.get(timeline.outcome, Outcome.CANCELLED)


def refusal_of(fail: Fail) -> Why:
    """Why one was refused that had been taken in."""
    return Why.NO_WORKER if fail.kind is FailKind.UNAVAILABLE else why_of(fail.reason)


def plan_of(timeline: Timeline) -> PlanKind:
    """Who served it, in its last attempt."""
    if timeline.decode_worker is None:
        return PlanKind.NONE
    return PlanKind.DISAGGREGATED if timeline.was_split else PlanKind.LOCAL
