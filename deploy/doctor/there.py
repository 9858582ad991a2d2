"""An examiner on every node of a Ray cluster, as actors of this process: Ray ends them when it goes, however it goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deploy.doctor.examiner import Examiner
from deploy.doctor.staff import LostError

_ANSWERS_WITHIN_S = 90.0
"""Its process has to start, too, and to import NIXL."""
_HEAD = "node:__internal_head__"


class There:
    """Of the cluster this process is connected to, the head first. Two examiners where there is one node."""

    def __init__(self) -> None:
        alive = [node for node in ray.nodes() if node["Alive"]]
        alive.sort(key=lambda node: (_HEAD not in node["Resources"], node["NodeManagerAddress"]))
        if len(alive) == 1:
            alive *= 2
        self._nodes = [str(node["NodeManagerAddress"]) for node in alive]
        self._examiners = [
            # No CPU: they have to come to full nodes too.
            ray.remote(Examiner)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(node["NodeManagerAddress"])
            for node in alive
        ]

    @property
    def nodes(self) -> Sequence[str]:
        return self._nodes

    @property
    def serve_runs(self) -> bool:
        """Whether Ray Serve is up on this cluster."""
        return any(actor["name"] == "SERVE_CONTROLLER_ACTOR" for actor in ray.util.list_named_actors(all_namespaces=True))

    def ask(self, which: int, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._examiners[which], method).remote(*arguments), timeout=_ANSWERS_WITHIN_S)
        except ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()
            raise LostError(f"{type(error).__name__}: {said[-1] if said else ''}") from error
