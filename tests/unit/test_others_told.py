"""Which routers are to hear of other routers' legs between two pulses."""

import pytest

from cluster.others_told import OthersTold, news_every_s
from core.ids import RouterId
from core.worker import OthersLoad

A, B = RouterId("a"), RouterId("b")
NOW = OthersLoad(legs=2, prompt_tokens=500, decoding=1, context_tokens=900, queued_tokens=40, arriving_tokens=300)


@pytest.mark.parametrize(
    ("later", "is_news"),
    [
        ({}, False),
        ({"legs": 3}, True),
        ({"prompt_tokens": 0}, True),
        ({"decoding": 2}, True),
        ({"arriving_tokens": 0}, True),
        ({"context_tokens": 950}, False),
        ({"queued_tokens": 0}, False),
    ],
)
def test_what_changes_is_news(later: dict[str, int], is_news: bool) -> None:
    """Legs that came, began to answer or ended; not that answers grow by a token with every step."""
    told = OthersTold()
    told.told(A, NOW)
    numbers = {name: getattr(NOW, name) for name in NOW.__struct_fields__} | later
    assert told.is_news(A, OthersLoad(**numbers)) is is_news


def test_each_router_is_told_for_itself() -> None:
    """Who has heard nothing, or is back after it was gone, has all of it to hear."""
    told = OthersTold()
    told.told(A, NOW)
    assert (told.is_news(A, NOW), told.is_news(B, NOW)) == (False, True)
    told.forget(A)
    assert told.is_news(A, NOW)


@pytest.mark.parametrize(("routers", "every_s"), [(0, 0.05), (1, 0.05), (4, 0.05), (8, 0.1), (24, 0.3)])
def test_many_routers_are_told_less_often(routers: int, every_s: float) -> None:
    """What a worker says in a second stays the same from four routers on; of twenty-four each hears no more than by pulses."""
    assert news_every_s(0.3, routers) == pytest.approx(every_s)
