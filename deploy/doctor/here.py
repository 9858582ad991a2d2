"""Two examiners on this machine, each a process. They end with ``close``, and with this process, however it ends."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.managers import BaseManager
from typing import Any

from deploy.doctor.examiner import Examiner
from deploy.doctor.staff import LostError
from engine.orphan import exit_with_worker


class _Process(BaseManager):
    """Deaf to Ctrl-C, which is for the doctor; talked to by a socket that only this process has the key of."""


_Process.register("Examiner", Examiner)


class Here:
    """``host`` is the address that both have. Starting takes a second: a fresh interpreter each, for NIXL does not survive a fork."""

    def __init__(self, host: str) -> None:
        self._processes = [_Process(ctx=multiprocessing.get_context("spawn")) for _ in range(2)]
        self._examiners: list[Any] = []
        self._host = host
        try:
            for process in self._processes:
                process.start(exit_with_worker)
                self._examiners.append(process.Examiner(host))  # type: ignore[attr-defined]  # made by ``register``
        except BaseException:
            self.close()
            raise

    @property
    def nodes(self) -> Sequence[str]:
        return [self._host] * len(self._processes)

    def ask(self, which: int, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._examiners[which], method)(*arguments)
        except (EOFError, ConnectionError) as error:
            raise LostError(f"the examining process has ended ({type(error).__name__})") from error

    def close(self) -> None:
        """Both processes have ended afterwards."""
        for process in self._processes:
            if hasattr(process, "shutdown"):  # only one that was started has it
                process.shutdown()
