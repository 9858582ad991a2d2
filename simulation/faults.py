"""What goes wrong in a simulation, and when: a script in YAML."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from core.errors import ConfigError
from core.worker import Role

_TAG = "fault"
_MOST_TIMES = 1000
"""Of what takes longer the end would not be seen."""


class _Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field=_TAG):
    at_s: float
    """Since the first request."""

    def __post_init__(self) -> None:
        for name in ("at_s", "for_s", "down_s", "back_after_s"):
            if not 0 <= (getattr(self, name, None) or 0.0) < math.inf:
                raise ValueError(f"`{name}` must be at least 0, and finite")
        if not 0 < getattr(self, "factor", 1.0) <= _MOST_TIMES:
            raise ValueError(f"`factor` must be above 0, and at most {_MOST_TIMES:,}")


class KillWorker(_Fault, frozen=True, tag="kill_worker"):
    """A worker is gone, with all that it had. Its routers notice after ``router.worker_timeout_s``."""

    worker: str
    back_after_s: float | None = None
    """Until another one has started in its place, from when that was noticed; unset: what workers take to start."""


class SlowWorker(_Fault, frozen=True, tag="slow_worker"):
    """All its steps take ``factor`` times as long."""

    worker: str
    factor: float
    for_s: float


class SlowLink(_Fault, frozen=True, tag="slow_link"):
    """KV goes in and out of a worker ``factor`` times as slowly."""

    worker: str
    factor: float
    for_s: float


class CutLink(_Fault, frozen=True, tag="cut_link"):
    """No KV goes in or out of a worker; what routers say to it does."""

    worker: str
    for_s: float


class RestartRouter(_Fault, frozen=True, tag="restart_router"):
    """A router ends; another one takes its place after ``down_s``."""

    router: int
    down_s: float = 5.0


Fault = KillWorker | SlowWorker | SlowLink | CutLink | RestartRouter
_KINDS = {str(kind.__struct_config__.tag): kind for kind in (KillWorker, SlowWorker, SlowLink, CutLink, RestartRouter)}


def read_faults(path: Path, workers: Mapping[Role, int], routers: int) -> list[Fault]:
    """In order of time. ``workers`` are those of the beginning. Raises ConfigError that says which entry is wrong, and what can be
    written instead."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", str(path)) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot be read: {error}", str(path)) from None
    entries = document.get("faults") if isinstance(document, dict) else None
    if not isinstance(entries, list) or set(document) != {"faults"}:
        raise ConfigError("has to be a list under `faults:`, each like `{at_s: 60, fault: kill_worker, worker: decode-0}`", str(path))
    found = [_fault(entry, f"{path}: faults[{number}]") for number, entry in enumerate(entries)]
    for number, fault in enumerate(found):
        if (wrong := _unknown(fault, workers, routers)) is not None:
            raise ConfigError(wrong, f"{path}: faults[{number}]")
    return sorted(found, key=lambda fault: fault.at_s)


def describe(fault: Fault) -> str:
    """In a few words."""
    match fault:
        case KillWorker():
            return f"{fault.worker} is killed"
        case SlowWorker():
            return f"{fault.worker} takes {fault.factor:g} times as long for {fault.for_s:g} s"
        case SlowLink():
            return f"the link of {fault.worker} is {fault.factor:g} times as slow for {fault.for_s:g} s"
        case CutLink():
            return f"the link of {fault.worker} is cut for {fault.for_s:g} s"
        case RestartRouter():
            return f"router {fault.router} is gone for {fault.down_s:g} s"


def _fault(entry: Any, where: str) -> Fault:
    kind = entry.get(_TAG) if isinstance(entry, dict) else None
    if kind not in _KINDS:
        near = difflib.get_close_matches(str(kind), _KINDS, 1)
        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(_KINDS)}"
        raise ConfigError(f"`fault: {kind}` is none; {hint}", where)
    try:
        found: Fault = msgspec.convert(entry, Fault)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{error}; {kind} takes {', '.join(_KINDS[kind].__struct_fields__)}", where) from None
    return found


def _unknown(fault: Fault, workers: Mapping[Role, int], routers: int) -> str | None:
    if isinstance(fault, RestartRouter):
        return None if 0 <= fault.router < routers else f"there is no router {fault.router}; {_routers(routers)}"
    known = {f"{role}-{number}" for role, count in workers.items() for number in range(count)}
    if fault.worker in known:
        return None
    names = [f"{role}-0" + f" to {role}-{count - 1}" * (count > 1) for role, count in workers.items() if count]
    return f"there is no worker `{fault.worker}` at the beginning; they are {' and '.join(names)}"


def _routers(count: int) -> str:
    return f"they are 0 to {count - 1}" if count > 1 else "there is one, 0"
