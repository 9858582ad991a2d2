"""Whether a request is refused before anything is spent on it, since what it is promised cannot be kept. Pure.

After Mooncake (Qin et al., FAST'25): what counts is the load when its prompt will be done, not the load now. Who predicts so, does
(``router/balancer``); refusing by today's decode load lets in far too many, then far too few, in turns.

When somebody of those who wait has to be late, it is the longest (Moore, Management Science 15, 1968): no other rule keeps more promises.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from core.ids import RequestId
from core.metrics.words import Why
from router.reason import Reason, why_of
from router.service import WantedService
from router.waiting import Rank, Takes, Waiting

_ERRS = 1.1
"""The time per token and the length of an answer are a tenth off at times: nobody is refused for less. The time to the first token is
not: what is ahead of it is known."""
_HOPELESS = 0.2
"""Nor is anybody whose chance to get its tokens in time is better than this: lengths of answers differ, and so does what they bear."""
_SHORTEST_S, _LONGEST_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Predicted:
    """The best that any plan offers, in seconds; None: nobody can tell."""

    ttft_s: float | None
    """From the request's arrival."""
    tpot_s: float | None = None
    """With the requests that will decode there when the prompt is done."""
    answer_s: float | None = None
    """From the first token to the last."""
    keeps: float = 0.0
    """The chance that each token comes in time."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who is refused, why, and when to come again."""

    reason: str
    retry_after_s: float
    instead: RequestId | None = None
    """A request that waits and is worse off and less important, or longer: it is refused, the new one is not. None: the new one is."""

    @property
    def text(self) -> str:
        """For the client."""
        return refusal_text(self.reason, self.retry_after_s)


def refusal_text(reason: str, retry_after_s: float) -> Reason:
    """The one form that every refusal has; ``Retry-After`` says the same."""
    return Reason(why_of(reason), f"{reason}; try again in {max(1, math.ceil(retry_after_s))} s")


def early_refusal(
    wanted: WantedService,
    predicted: Predicted,
    waiting: Iterable[Waiting],
    now: float,
    drained_s: float = 0.0,
    longest: Waiting | None = None,
) -> Refusal | None:
    """What to do about a new request: None lets it in.

    ``waiting`` are those in the queue. Of these, one of a lower priority whose own objective is lost goes in its place, the least
    important and latest first; else ``longest``, the one ahead of it without which it would be in time. ``drained_s`` is when the queue
    will have room by its measured rate: nobody is asked to come sooner.
    """
    missed = _missed(wanted, predicted)
    if missed is None:
        return None
    reason, over_s = missed
    retry_after_s = min(_LONGEST_S, max(_SHORTEST_S, over_s, drained_s))
    lost = [each for each in waiting if each.rank is Rank.NEW and each.service.priority > wanted.priority and each.is_late(now)]
    if not lost and longest is not None:
        said = "it waits with a long prompt, and without it others are in time"
        return Refusal(Reason(Why.DISPLACED, said), retry_after_s, longest.request)
    if not lost:
        return Refusal(reason, retry_after_s)
    least = max(lost, key=lambda each: (each.service.priority, each.since_s))
    return Refusal(
        Reason(Why.DISPLACED, "what it is promised is lost, and requests of a better priority came"), retry_after_s, least.request
    )


def never_in_time(wanted: WantedService, takes: Takes) -> Reason | None:
    """Why no worker could keep what is promised, however idle: coming again would change nothing. None: one could."""
    if wanted.ttft_s is None or takes.prefill_s <= wanted.ttft_s:
        return None
    said = (
        f"the prompt is too long for its promise: computing it takes {_rounded(takes.prefill_s)} on an idle worker, and the first token is "
        f"promised within {wanted.ttft_s:g} s; ask for more time with the header `x-baton-ttft-s`, or send less"
    )
    return Reason(Why.TOO_LONG, said)


def _missed(wanted: WantedService, predicted: Predicted) -> tuple[Reason, float] | None:
    """What cannot be kept, in words, and by how many seconds the wait is too long for it."""
    ttft_s, tpot_s = predicted.ttft_s, predicted.tpot_s
    if wanted.ttft_s is not None and ttft_s is not None and ttft_s > wanted.ttft_s:
        said = f"the first token would come after {_rounded(ttft_s)}, and {wanted.ttft_s:g} s is promised"
        return Reason(Why.TTFT, said), ttft_s - wanted.ttft_s
    if wanted.tpot_s is not None and tpot_s is not None and tpot_s > wanted.tpot_s * _ERRS and predicted.keeps < _HOPELESS:
        return Reason(Why.TPOT, f"a token would take {tpot_s * 1000:.0f} ms, and {wanted.tpot_s * 1000:g} ms is promised"), 0.0
    if wanted.deadline_s is not None and ttft_s is not None:
        done_s = ttft_s + (predicted.answer_s or 0.0)
        if done_s > wanted.deadline_s * _ERRS:
            said = f"the answer would be done after {_rounded(done_s)}, and {wanted.deadline_s:g} s is the deadline"
            return Reason(Why.DEADLINE, said), done_s - wanted.deadline_s
    return None


def _rounded(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1.0 else f"{seconds:.2g} s"
