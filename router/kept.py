"""Whether a request got what it was promised. Pure."""

from __future__ import annotations

from core.metrics.words import Kept, Outcome
from router.service import WantedService
from router.timeline import Timeline

_WELL_ENDED = frozenset({Outcome.FINISHED, Outcome.STOPPED})


def kept(timeline: Timeline, service: WantedService, outcome: Outcome) -> Kept | None:
    """Of a request that has ended; None where nothing was promised, or its client left before anything was missed.

    The first promise that was missed counts, in the order of a request's life. Refusals and errors are misses.
    """
    if not service.has_objective:
        return None
    if outcome is Outcome.REFUSED:
        return Kept.REFUSED
    if outcome not in _WELL_ENDED and outcome is not Outcome.CANCELLED:
        return Kept.FAILED
    first_s = timeline.finished_s if timeline.first_token_s is None else timeline.first_token_s  # it did not come before
    if _beyond(first_s, service.ttft_s):
        return Kept.MISSED_TTFT
    if outcome in _WELL_ENDED and _beyond(timeline.tpot_s, service.tpot_s):
        return Kept.MISSED_TPOT
    if _beyond(timeline.finished_s, service.deadline_s):
        return Kept.MISSED_DEADLINE
    return Kept.MET if outcome in _WELL_ENDED else None


def _beyond(took_s: float | None, promised_s: float | None) -> bool:
    return took_s is not None and promised_s is not None and took_s > promised_s
