"""What of a prompt each worker has cached, as one router knows it: from the workers' feeds, and from what it has just sent them.

Pure; told the time. For every worker: ``enter``, then ``heard`` with what it says, ``lost`` when its connection breaks, ``leave``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.messages import FromWorker, KVChanges, KVSnapshot, Pulse, WantKV
from core.block_keys import BlockKeys
from core.ids import WorkerId
from router.prefix.follower import Follower
from router.prefix.index import DEFAULT_BUDGET_BLOCKS, PrefixIndex
from router.prefix.promises import Promises
from router.prefix.prompt import PromptKeys, prompt_keys

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest


class Prefixes:
    """All workers of one router."""

    def __init__(self, budget_blocks: int = DEFAULT_BUDGET_BLOCKS) -> None:
        self.index = PrefixIndex(budget_blocks)
        self._promises = Promises()
        self._followers: dict[WorkerId, Follower] = {}
        self._sizes: dict[WorkerId, int] = {}
        self._makers: dict[int, BlockKeys] = {}

    # -- workers -------------------------------------------------------------------------------------------------------

    def enter(self, worker: WorkerId, block_size_tokens: int, seed: bytes) -> None:
        """A new life of a worker. ``seed`` is the cluster's, as ``core.block_keys.seed_of`` makes it of the routers' secret key."""
        self.leave(worker)
        self._followers[worker] = Follower(worker, self.index)
        self._sizes[worker] = block_size_tokens
        if block_size_tokens not in self._makers:
            self._makers[block_size_tokens] = BlockKeys(seed, block_size_tokens)

    def leave(self, worker: WorkerId) -> None:
        """It is no member any more."""
        self.lost(worker)
        self._followers.pop(worker, None)
        size = self._sizes.pop(worker, None)
        if size is not None and size not in self._sizes.values():
            del self._makers[size]

    def lost(self, worker: WorkerId) -> None:
        """It cannot be reached; what it has is asked for again once it is heard."""
        self._promises.forget(worker)
        if (follower := self._followers.get(worker)) is not None:
            follower.lost()

    def heard(self, worker: WorkerId, message: FromWorker, now: float) -> WantKV | None:
        """Every message of a worker's present life, in order. What is returned is to be sent to it."""
        follower = self._followers.get(worker)
        if follower is None or not isinstance(message, KVChanges | KVSnapshot | Pulse):
            return None
        return follower.heard(message, now)

    def is_current(self, worker: WorkerId) -> bool:
        """Whether all is known that the worker has told."""
        return worker in self._followers and self._followers[worker].is_current

    # -- requests ------------------------------------------------------------------------------------------------------

    def keys(self, request: EngineCoreRequest) -> PromptKeys:
        """What ``cached_tokens`` and ``sent`` are asked with: made once for a request, as it costs as much as they do."""
        return prompt_keys(request, self._makers)

    def cached_tokens(self, prompt: PromptKeys, now: float) -> dict[WorkerId, int]:
        """How many tokens of a prompt each worker need not compute, or will not need to by the time. Those with none are left out."""
        if not prompt.reads_cache:
            return {}
        cached: dict[WorkerId, int] = {}
        for size, keys in prompt.by_size.items():
            most = (prompt.tokens - 1) // size  # an engine computes at least the last token, and by whole blocks
            hits = self.index.hits(keys)
            for worker, blocks in self._promises.hits(keys, now, self.index.has).items():
                hits[worker] = max(blocks, hits.get(worker, 0))
            cached |= {worker: min(blocks, most) * size for worker, blocks in hits.items() if most}
        return cached

    def sent(self, worker: WorkerId, prompt: PromptKeys, now: float) -> None:
        """A leg that computes or pulls this prompt was sent: the worker will have its blocks, if nothing happens."""
        if (size := self._sizes.get(worker)) is not None:
            self._promises.made(worker, prompt.by_size.get(size, ()), now)

    def refused(self, worker: WorkerId, prompt: PromptKeys) -> None:
        """The leg did not get there."""
        if (size := self._sizes.get(worker)) is not None:
            self._promises.broken(worker, prompt.by_size.get(size, ()))
