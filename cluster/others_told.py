"""What each router was last told of the other routers' legs on a worker: between two pulses only what has changed is worth a message."""

from __future__ import annotations

from core.ids import RouterId
from core.worker import OthersLoad

_PER_PULSE = 6
"""So often between two pulses it is looked whether there is something to tell: at the usual 0.3 s, every 50 ms."""
_ROUTERS = 4
"""Of more routers, each is told less often: a thousand workers would otherwise keep twenty routers busy with nothing else."""


def news_every_s(pulse_s: float, routers: int) -> float:
    """How long a worker waits between two looks for news, if it pulses every ``pulse_s`` for so many routers."""
    return pulse_s / _PER_PULSE * max(1.0, routers / _ROUTERS)


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
