"""The router's index of caches, for prompts of which nothing but their blocks' names is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.block_keys import BlockKey
from core.ids import WorkerId
from router.prefix.prefixes import Prefixes
from router.prefix.prompt import PromptKeys

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest


class GivenPrefixes(Prefixes):
    """Takes the keys from the trace, where others hash tokens. Every worker must have blocks of the trace's size."""

    def __init__(self) -> None:
        super().__init__()
        self._block_sizes: dict[int, None] = {}

    def enter(self, worker: WorkerId, block_size_tokens: int, seed: bytes) -> None:
        super().enter(worker, block_size_tokens, seed)
        self._block_sizes[block_size_tokens] = None

    def keys(self, request: EngineCoreRequest) -> PromptKeys:
        trace = request.trace  # a ``simulation.stand_ins.Request``
        keys = tuple(BlockKey(block) for block in trace.block_hashes)
        return PromptKeys(trace.prompt_tokens, dict.fromkeys(self._block_sizes, keys))
