"""More load than can be served: the cluster stays as it is, and says no quickly to those it cannot serve."""

import pytest

from tests.chaos.overload import overload

pytestmark = [pytest.mark.chaos, pytest.mark.integration, pytest.mark.slow]


def test_four_times_the_sustainable_rate() -> None:
    """Refusals are fast and say when to come back; who is accepted is served in time; afterwards nothing is held."""
    assert overload(20.0).broken() == []
