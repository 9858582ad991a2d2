"""Whether a request got what it was promised: what goodput counts."""

from __future__ import annotations

from typing import Any

import pytest

from core.ids import RequestId
from core.metrics.words import Kept, Outcome
from router.kept import kept
from router.service import WantedService
from router.timeline import Timeline

ALL = WantedService(ttft_s=1.0, tpot_s=0.1, deadline_s=5.0)
FIRST = WantedService(ttft_s=1.0)
RATE = WantedService(tpot_s=0.1)
DONE = WantedService(deadline_s=5.0)
FINISHED, CANCELLED = Outcome.FINISHED, Outcome.CANCELLED
GOOD: dict[str, Any] = {"first_token_s": 0.5, "finished_s": 1.4, "output_tokens": 10}  # 0.1 s per token
SLOW: dict[str, Any] = {"first_token_s": 0.5, "finished_s": 2.0, "output_tokens": 10}
LATE: dict[str, Any] = {"first_token_s": 1.5, "finished_s": 2.0, "output_tokens": 10}
LONG: dict[str, Any] = {"first_token_s": 0.5, "finished_s": 6.0, "output_tokens": 100}
NOTHING: dict[str, Any] = {"finished_s": 0.5}
NOTHING_YET: dict[str, Any] = {"finished_s": 2.0}

CASES: dict[str, tuple[dict[str, Any], WantedService, Outcome, Kept | None]] = {
    "nothing was promised": (LATE, WantedService(), FINISHED, None),
    "all in time": (GOOD, ALL, FINISHED, Kept.MET),
    "just in time": ({**GOOD, "first_token_s": 1.0}, FIRST, FINISHED, Kept.MET),
    "ended by a stop string": (GOOD, ALL, Outcome.STOPPED, Kept.MET),
    "one token has no time per token": ({**GOOD, "output_tokens": 1}, RATE, FINISHED, Kept.MET),
    "the first token was late": (LATE, ALL, FINISHED, Kept.MISSED_TTFT),
    "tokens were slow": (SLOW, ALL, FINISHED, Kept.MISSED_TPOT),
    "slow, but nobody minds": (SLOW, FIRST, FINISHED, Kept.MET),
    "done too late": (LONG, ALL, FINISHED, Kept.MISSED_DEADLINE),
    "refused": (NOTHING, ALL, Outcome.REFUSED, Kept.REFUSED),
    "refused, of nothing promised": (NOTHING, WantedService(), Outcome.REFUSED, None),
    "lost": (GOOD, ALL, Outcome.LOST, Kept.FAILED),
    "timed out": (LATE, ALL, Outcome.TIMED_OUT, Kept.FAILED),
    "left while all was well": (GOOD, ALL, CANCELLED, None),
    "left before the first token was due": (NOTHING, FIRST, CANCELLED, None),
    "left because the first token did not come": (NOTHING_YET, FIRST, CANCELLED, Kept.MISSED_TTFT),
    "left when it was too late": (LONG, DONE, CANCELLED, Kept.MISSED_DEADLINE),
    "left, and tokens were slow so far": (SLOW, RATE, CANCELLED, None),
}


@pytest.mark.parametrize(("times", "service", "outcome", "result"), CASES.values(), ids=CASES.keys())
def test_promises(times: dict[str, Any], service: WantedService, outcome: Outcome, result: Kept | None) -> None:
    """The first promise that was missed counts; refusals and errors are misses; a client that leaves makes no miss of its own."""
    timeline = Timeline(RequestId("r"), "c", 1000.0, 50.0, 20, 8)
    for name, value in times.items():
        setattr(timeline, name, value)
    assert kept(timeline, service, outcome) is result
