"""The lease table: each lease begins once and ends once, and blocks are counted in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import LegId, RouterId
from kv_transfer.lease import Lease, LeaseTable

A, B = RouterId("a"), RouterId("b")


def lease(leg: str, owner: RouterId = A, blocks: int = 1, expires_at_s: float = 10.0) -> Lease:
    return Lease(LegId(leg), owner, blocks, expires_at_s)


def test_a_lease_ends_once() -> None:
    """Ending tells what ended; ending again, or what never was, is no error and tells nothing."""
    table = LeaseTable()
    table.grant(lease("x:0", blocks=3))
    assert (table.blocks, len(table)) == (3, 1)
    assert table.end(LegId("x:0")) == lease("x:0", blocks=3)
    assert table.end(LegId("x:0")) is None
    assert table.end(LegId("never:0")) is None
    assert (table.blocks, len(table)) == (0, 0)


def test_a_leg_is_leased_once() -> None:
    """A second grant would hide the first one's blocks."""
    table = LeaseTable()
    table.grant(lease("x:0"))
    with pytest.raises(ValueError, match="x:0 is leased already"):
        table.grant(lease("x:0", owner=B))
    assert table.of_owner(A) == ["x:0"]


def test_owners_have_their_own() -> None:
    """What is kept for a router that is gone can be found."""
    table = LeaseTable()
    for leg, owner in (("x:0", A), ("y:0", B), ("z:0", A)):
        table.grant(lease(leg, owner))
    assert (table.of_owner(A), table.of_owner(B), table.of_owner(RouterId("c"))) == (["x:0", "z:0"], ["y:0"], [])


@pytest.mark.parametrize(("now_s", "stranded"), [(0.0, 0), (5.0, 0), (5.9, 0), (6.0, 3), (10.9, 3), (11.0, 5)])
def test_stranded_blocks(now_s: float, stranded: int) -> None:
    """A lease's blocks are stranded a second after its end, until the engine has freed them."""
    table = LeaseTable()
    table.grant(lease("x:0", blocks=3, expires_at_s=5.0))
    table.grant(lease("y:0", blocks=2, expires_at_s=10.0))
    assert table.stranded_blocks(now_s) == stranded
    assert table.blocks == 5
    table.end(LegId("x:0"))
    table.end(LegId("y:0"))
    assert table.stranded_blocks(now_s) == table.blocks == 0


@pytest.mark.parametrize(("renewed_to_s", "ends_at_s"), [(20.0, 20.0), (5.0, 10.0)])
def test_a_renewed_lease_ends_later_never_earlier(renewed_to_s: float, ends_at_s: float) -> None:
    """What a reader in the queue keeps alive is not stranded; a word about a lease that is gone says nothing."""
    table = LeaseTable()
    table.grant(lease("x:0", blocks=3, expires_at_s=10.0))
    table.renew(LegId("x:0"), renewed_to_s)
    table.renew(LegId("never:0"), renewed_to_s)
    assert (table.stranded_blocks(ends_at_s), table.stranded_blocks(ends_at_s + 1)) == (0, 3)
    assert len(table) == 1


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([A, B]), st.integers(1, 9), st.booleans()), max_size=40))
def test_blocks_are_the_sum_of_what_has_not_ended(steps: list[tuple[str, RouterId, int, bool]]) -> None:
    """In any order of grants and ends."""
    table = LeaseTable()
    model: dict[str, tuple[RouterId, int]] = {}
    for leg, owner, blocks, begins in steps:
        if begins and leg not in model:
            table.grant(lease(leg, owner, blocks))
            model[leg] = (owner, blocks)
        elif not begins:
            assert (table.end(LegId(leg)) is not None) == (model.pop(leg, None) is not None)
    assert table.blocks == sum(blocks for _, blocks in model.values())
    assert sorted(table.of_owner(A) + table.of_owner(B)) == sorted(model)
