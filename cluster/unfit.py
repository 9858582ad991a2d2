"""Why a worker cannot be given another role, or another rest. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.lifecycle import WorkerRecord
from core.worker import Role, WorkerState


def unfit(
    record: WorkerRecord | None, state: WorkerState, role: Role | None, spec_hashes: Mapping[Role, str], differing_keys: Sequence[str]
) -> str | None:
    """Why a worker is not in this state, or could not serve with this role (None: its own); None: it is, and can.

    ``spec_hashes`` are today's; ``differing_keys`` those by which workers of the two pools are made differently.
    """
    if record is None:
        return "there is no such worker"
    if record.state is not state:
        return f"it is {record.state}, not {state}"
    if record.spec_hash != spec_hashes[record.role]:
        return "it was made from an older configuration, and is to be replaced"
    if role not in (None, record.role) and differing_keys:
        keys = ", ".join(f"`{key}`" for key in differing_keys)
        return f"workers of the two pools are made differently; their {keys} would have to be equal"
    return None
