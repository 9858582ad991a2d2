"""How many workers are wanted, from one controller to the next."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import wanted as module
from cluster.wanted import Wanted
from core.config import BatonConfig
from core.worker import Role

P, D = Role.PREFILL, Role.DECODE


class Board:
    """Keeps one note, as the notice board does."""

    def __init__(self) -> None:
        self.note: tuple[Any, dict[str, int]] | None = None

    def keep_wanted(self, _: str, configured: dict[str, int], wanted: dict[str, int]) -> None:
        self.note = (configured, wanted)

    def kept_wanted(self, _: str, configured: dict[str, int]) -> dict[str, int] | None:
        return self.note[1] if self.note is not None and self.note[0] == configured else None


@pytest.fixture(autouse=True)
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    made = Board()
    monkeypatch.setattr(module, "board", made)
    return made


def wanted(prefill: int, decode: int, scaled: bool = False) -> Wanted:
    """By a new controller with this configuration."""
    scaling = {"enabled": True, "objective": {"ttft_s": 1.0, "tpot_s": 0.1}} if scaled else {}
    args = {"model": "demo", "prefill": {"count": prefill}, "decode": {"count": decode}, "autoscaling": scaling}
    made = Wanted("baton", BatonConfig.model_validate(args))
    made.recall()
    return made


def test_at_first_it_is_what_the_configuration_says() -> None:
    assert dict(wanted(1, 2)) == {P: 1, D: 2}


def test_a_change_holds_for_the_next_controller() -> None:
    """No pool is wanted smaller than empty."""
    wanted(1, 2).change({P: 1, D: -5})
    assert dict(wanted(1, 2)) == {P: 2, D: 0}


def test_new_numbers_in_the_configuration_are_newer_than_a_change() -> None:
    """Those of either pool: a change moved workers between them."""
    wanted(1, 2).change({P: 1, D: -1})
    assert dict(wanted(1, 3)) == {P: 1, D: 3}


def test_a_scaled_pool_only_begins_with_its_count() -> None:
    """What scaling has made of it is kept under other counts, too."""
    wanted(1, 2, scaled=True).change({D: 4})
    assert dict(wanted(1, 3, scaled=True)) == {P: 1, D: 6}


def test_what_only_this_controller_wants_is_not_kept() -> None:
    one = wanted(1, 2)
    one.become({P: 0, D: 0})
    assert dict(one) == {P: 0, D: 0}
    assert dict(wanted(1, 2)) == {P: 1, D: 2}
