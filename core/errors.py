"""Every error Baton raises on purpose, branched by what the caller can do next.

BatonError
|- ConfigError          mend the configuration; says which field and how
|- NotReadyError        wait ``retry_after_s`` and try again
|- WorkerUnfitError     this worker cannot be told to do this; it goes on as it was
|- WorkerLostError      the worker is gone; what it was doing may be tried elsewhere
|- AdapterError         this adapter cannot be used as it is; the engine and everything else can
`- EngineFailedError    the engine could not do this request; do not repeat it blindly
"""

from __future__ import annotations

from typing import Any


class BatonError(Exception):
    """Base of all. Arguments are kept as attributes and survive pickling (they cross Ray)."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)


class ConfigError(BatonError):
    """A configuration cannot be used as it is."""

    def __init__(self, rule: str, where: str = "") -> None:
        super().__init__(rule, where)
        self.rule = rule
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.rule}" if self.where else self.rule


class NotReadyError(BatonError):
    """No worker can take the request now."""

    def __init__(self, what: str, retry_after_s: float) -> None:
        super().__init__(what, retry_after_s)
        self.what = what
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.what}; try again in {self.retry_after_s:.0f} s"


class WorkerUnfitError(BatonError):
    """A worker cannot be made to do what was asked. Nothing has changed."""

    def __init__(self, worker: str, wish: str, reason: str) -> None:
        super().__init__(worker, wish, reason)
        self.worker = worker
        self.wish = wish
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.worker} cannot {self.wish}: {self.reason}"


class WorkerLostError(BatonError):
    """A worker stopped answering, or its process ended."""

    def __init__(self, worker: str, reason: str) -> None:
        super().__init__(worker, reason)
        self.worker = worker
        self.reason = reason

    def __str__(self) -> str:
        return f"worker {self.worker} was lost: {self.reason}"


class AdapterError(BatonError):
    """A LoRA adapter could not be loaded. ``reason`` names no path: clients read it."""

    def __init__(self, adapter: str, reason: str) -> None:
        super().__init__(adapter, reason)
        self.adapter = adapter
        self.reason = reason

    def __str__(self) -> str:
        return f"the adapter `{self.adapter}` cannot be loaded: {self.reason}"


class EngineFailedError(BatonError):
    """The engine reported an error for a request, or died."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
