"""Which LoRA adapters an engine holds, and who goes when another one comes. Pure book-keeping; ``cluster.adapters`` loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_NEWS = 0.3
"""How much the newest load counts for what the next is expected to take."""


@dataclass(frozen=True, slots=True)
class Placed:
    """There is a slot for the adapter."""

    is_new: bool = False
    """It is to be loaded first."""
    evicted: str | None = None
    """Who is to be unloaded before that."""


class AdapterSlots:
    """Least recently used goes first, and nobody goes that a request is with: so the engine never has to load one by itself, in the
    middle of a step, where files that are gone by then would end it."""

    def __init__(self, slots: int, load_s: float) -> None:
        """``load_s`` is how long a load is thought to take before there was one."""
        self.slots = slots
        self.load_s = load_s
        self._is_measured = False
        self._names: dict[str, None] = {}
        """Whoever was not used for longest is first."""

    @property
    def names(self) -> Sequence[str]:
        """Those there are, the one that was not used for longest first."""
        return tuple(self._names)

    def place(self, name: str, in_use: Callable[[str], bool]) -> Placed | None:
        """A request with this adapter has come. None: there is no slot, as requests are with all that have one."""
        if name in self._names:
            self._names[name] = self._names.pop(name)
            return Placed()
        evicted = None
        if len(self._names) >= self.slots:
            evicted = next((other for other in self._names if not in_use(other)), None)
            if evicted is None:
                return None
            del self._names[evicted]
        self._names[name] = None
        return Placed(True, evicted)

    def loaded(self, took_s: float) -> None:
        """A load is over."""
        self.load_s += (_NEWS if self._is_measured else 1.0) * (took_s - self.load_s)
        self._is_measured = True

    def failed(self, name: str, stays: str | None = None) -> None:
        """It could not be loaded: its slot is free, or has again who was to be unloaded for it and ``stays``; that one goes first."""
        self._names.pop(name, None)
        if stays is not None:
            self._names = {stays: None, **self._names}
