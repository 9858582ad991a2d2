"""``--synthetic "rate=20 isl=8k osl=200 seconds=600"``: quantities are written as `baton plan` takes them."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import Any

from core.errors import ConfigError
from deploy.plan.quantities import count, positive, seconds, share
from simulation.synthetic import Synthetic

_EXAMPLE = "rate=20 isl=1000 osl=200 seconds=600 hit=0.3 burst=5 burst_at=200 burst_for=60"


def synthetic_of(text: str) -> Synthetic:
    """Raises ConfigError that says which word is wrong, and how it is written."""
    found: dict[str, Any] = {}
    for word in re.sub(r"\s*=\s*", "=", text.replace(",", " ")).split():
        name, _, value = word.partition("=")
        if name not in _READERS:
            near = difflib.get_close_matches(name.lower(), _READERS, 1)
            raise _wrong(f"`{name}` is unknown; {f'perhaps `{near[0]}` was meant' if near else 'known: ' + ', '.join(_READERS)}")
        if name in found:
            raise _wrong(f"`{name}` is there twice")
        try:
            found[name] = _READERS[name](value)
        except argparse.ArgumentTypeError as error:
            raise _wrong(f"`{name}` is {error}") from None
    if missing := [name for name in ("rate", "isl", "osl", "seconds") if name not in found]:
        raise _wrong(f"{' and '.join(f'`{name}`' for name in missing)} {'is' if len(missing) == 1 else 'are'} missing")
    if "burst" not in found and (idle := [name for name in ("burst_at", "burst_for") if name in found]):
        raise _wrong(f"`{idle[0]}` needs `burst`, how many times as high the rate is then")
    try:
        return Synthetic(**found)
    except ValueError as error:
        raise _wrong(str(error)) from None


def _wrong(rule: str) -> ConfigError:
    return ConfigError(f"{rule}; write it like `{_EXAMPLE}`", "--synthetic")


def _at(text: str) -> float:
    return 0.0 if text in {"0", "0s", "0.0"} else seconds(text)


_READERS = {
    "rate": positive,
    "isl": count,
    "osl": count,
    "seconds": seconds,
    "hit": share,
    "prefixes": count,
    "burst": positive,
    "burst_at": _at,
    "burst_for": seconds,
}
