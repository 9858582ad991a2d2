"""What ``python -m benchmarks.decision`` times."""

from __future__ import annotations

from benchmarks.decision import live_times_s
from router.placing import Placing


def test_live_decisions_are_those_of_the_production_router() -> None:
    """One for each request behind the first quarter, which a simulated cluster of sixteen serves, and the keys of its prompt; afterwards
    nothing is timed any more."""
    before = Placing.decide
    decided, keys = live_times_s(16, 40)
    assert len(decided) == len(keys) == 30
    assert min(decided) > 0 < min(keys)
    assert Placing.decide is before
