"""Names of models and GPUs as people write them: in any letters, weights as on the hub, and each kind of GPU once."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.plan.faults import Faults
from deploy.plan.hub_names import HUB_NAMES
from engine.performance.roofline.find_model import config_at
from engine.performance.roofline.hardware import hardware_name


def model_name(written: str) -> str:
    """Of the shape that comes with Baton, if it is that or its weights on the hub; everything else, and files and folders, as written."""
    if written in HUB_NAMES or config_at(written) is not None:
        return written
    return next((name for name, hub in HUB_NAMES.items() if written.lower() in (name, hub.lower())), written)


def gpus_by_name(faults: Faults, written: Sequence[tuple[str, int | None]]) -> dict[str, int | None]:
    """How many there are of each kind. Adds a fault for what is there twice: it would be a guess which of them is meant."""
    found: dict[str, int | None] = {}
    for name, count in ((hardware_name(each), count) for each, count in written):
        same = next((known for known in found if known.rpartition("#")[2] == name.rpartition("#")[2]), None)
        if same is None:
            found[name] = count
        elif same == name:
            together = (found[name] or 0) + (count or 0)
            faults.add(f"{name} is there twice; write it once, with how many there are in all (--gpu {name}:{together or 8})", "--gpu")
        else:
            faults.add(f"{same} and {name} have the same name; give one of them another in its file", "--gpu")
    return found


def prices_by_name(faults: Faults, written: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Dollars per hour. Adds a fault for a GPU with two prices."""
    found: dict[str, float] = {}
    for name, dollars in ((hardware_name(each), dollars) for each, dollars in written):
        if name in found:
            faults.add(f"{name} has two prices; write one", "--price")
        found[name] = dollars
    return found
