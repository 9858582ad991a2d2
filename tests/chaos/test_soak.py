"""The soak, in the form that every change has to pass. ``make chaos`` has the long one."""

import pytest

from tests.chaos.soak import soak

pytestmark = [pytest.mark.chaos, pytest.mark.integration, pytest.mark.slow]


def test_three_minutes_with_a_fault_every_twenty_seconds() -> None:
    """No error but on connections to a killed router, no wrong token, nothing left, nothing that grows."""
    result = soak(180.0)
    assert sum(result.faults.values()) >= 6, result.skipped
    assert result.broken() == []
