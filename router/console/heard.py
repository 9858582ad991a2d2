"""The last answer of somebody who may be slow, or away: asked again in the background while people look."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_OLD = 4.0


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """As it is known now."""

    value: T | None
    """The newest; None: there never was one."""
    age_s: float | None
    """Of that."""
    error: str
    """Why there is no newer one; empty: the last question was answered."""


class Heard(Generic[T]):
    """Whoever asks gets the last answer, and has the next fetched once that is older than ``fresh_s``. An answer from before anybody
    looked is no answer: where it is older than ``_OLD`` times that, the next is waited for."""

    def __init__(self, ask: Callable[[], Awaitable[T]], fresh_s: float, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._fresh_s = fresh_s
        self._clock = clock
        self._value: T | None = None
        self._heard_s: float | None = None
        self._asked_s = -fresh_s
        self._error = ""
        self._asking: asyncio.Task[None] | None = None

    async def get(self, wait_s: float = 1.0) -> Answer[T]:
        """Never raises. Waits for a first answer, or a new one for an old one, and no longer than ``wait_s``; not for one who has just
        failed to answer."""
        now_s = self._clock()
        if self._asking is None and (self._heard_s is None or now_s - self._asked_s >= self._fresh_s):
            self._asked_s = now_s
            self._asking = asyncio.create_task(self._fetch())
        is_old = self._heard_s is None or now_s - self._heard_s > _OLD * self._fresh_s
        if is_old and self._asking is not None and not self._error:
            await asyncio.wait([self._asking], timeout=wait_s)
        return Answer(self._value, None if self._heard_s is None else max(0.0, self._clock() - self._heard_s), self._error)

    async def _fetch(self) -> None:
        try:
            self._value = await self._ask()
            self._heard_s, self._error = self._clock(), ""
        except Exception as error:  # whatever it is, those who look are told, and it is tried again
            self._error = type(error).__name__
        finally:
            self._asking = None
