"""What goes to the front half: outputs, in the order in which they are put in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput


class Outbox:
    """Each output goes out at once, or with all others of its engine step: see ``together``."""

    def __init__(self, deliver: Callable[[list[EngineCoreOutput]], None]) -> None:
        self._deliver = deliver
        self._kept: list[EngineCoreOutput] | None = None

    def put(self, output: EngineCoreOutput) -> None:
        """A failure that comes while a step is read goes out behind the step's tokens, which are on their way to the client."""
        if self._kept is None:
            self._deliver([output])
        else:
            self._kept.append(output)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is put in meanwhile goes out as one at the end, whatever happened. Not to be nested."""
        self._kept = []
        try:
            yield
        finally:
            kept, self._kept = self._kept, None
            if kept:
                self._deliver(kept)
