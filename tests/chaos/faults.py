"""Faults, by name. Each is done to processes from outside, without their help, and taken back on the way out where it can be."""

from __future__ import annotations

import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType

from tests.chaos.sockets import Cut, Where


class Fault(ABC):
    """Entering strikes; leaving takes back what can be taken back."""

    name: str
    """For the table."""

    @abstractmethod
    def __enter__(self) -> Fault: ...

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Sigkill(Fault):
    """The process is gone, in the middle of everything. The kernel closes its connections at once."""

    name = "SIGKILL"

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> Sigkill:
        os.kill(self._pid, signal.SIGKILL)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass  # what is dead stays dead


class Sigstop(Fault):
    """The process stands still with all its threads; its connections stay open and silent. Goes on at the end."""

    name = "SIGSTOP"

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> Sigstop:
        os.kill(self._pid, signal.SIGSTOP)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)


class Blocked(Fault):
    """Sockets whose packets vanish, as in a network that is cut; both sides run on. The cut is mended at the end."""

    name = "block"

    def __init__(self, places: Sequence[Where]) -> None:
        self._cut = Cut(places)

    def __enter__(self) -> Blocked:
        self._cut.make()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._cut.mend()
