"""What each router was last told of the other routers' legs on a worker: between two pulses only what has changed is worth a message."""

from __future__ import annotations

from core.ids import RouterId
from core.worker import OthersLoad

NEWS_PER_PULSE = 6
"""So often between two pulses it is looked whether there is something to tell: at the usual 0.3 s, every 50 ms."""


class OthersTold:
    """A router that has no leg on a worker hears of it by pulses only. In the time between two of them, other routers may send it several
    prompts; it would seem idle, and be sent one more."""

    def __init__(self) -> None:
        self._told: dict[RouterId, tuple[int, ...]] = {}

    def told(self, router: RouterId, others: OthersLoad) -> None:
        """A message went out that says this."""
        self._told[router] = _gist(others)

    def is_news(self, router: RouterId, others: OthersLoad) -> bool:
        """Whether the others' legs are not what the router was last told: came, got their first token, or ended."""
        return self._told.get(router) != _gist(others)

    def forget(self, router: RouterId) -> None:
        """It is gone."""
        self._told.pop(router, None)


def _gist(others: OthersLoad) -> tuple[int, ...]:
    """Without what grows with every token: that can wait for the next pulse."""
    return others.legs, others.prompt_tokens, others.decoding, others.arriving_tokens
