"""What a worker needs to know to do one kind of leg: how to ask the engine for it and what its outputs mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from cluster.messages import AddLeg
from core.handle import KVHandle
from core.ids import RouterId
from engine.base import StepReport

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest


class LegHandler(ABC):
    """One kind of leg on one worker. Called from the worker's loop only; never waits."""

    @abstractmethod
    def engine_request(self, add: AddLeg, request: EngineCoreRequest) -> EngineCoreRequest:
        """The request as the engine is to see it, under the leg's id. Changes neither argument.

        ``add.emitted`` may be non-empty for every kind: the engine is told to take those tokens as output already made.
        """

    def finished(self, owner: RouterId, output: EngineCoreOutput) -> KVHandle | None:
        """Called with a leg's last output; returns the handle if the leg's KV is kept for a reader."""
        return None

    def stepped(self, report: StepReport) -> None:  # noqa: B027
        """Called after every engine step with what it told."""
