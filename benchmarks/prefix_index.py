"""What the prefix index costs: ``python -m benchmarks.prefix_index``; with ``--each`` every worker has that many blocks, not all together.

A third of the workers have a beginning of the prompt that is looked up, each of another length, and 64 prompts with its first block
are on their way; all other blocks are of other prompts. Times are CPU time of one thread: other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence

import msgspec
import psutil
from vllm import SamplingParams
from vllm.v1.engine import EngineCoreRequest

from cluster.kv_feed import KVFeed
from cluster.messages import KVChanges, KVSnapshot, Pulse, decode_from_worker, encode
from core.block_keys import BlockKey, BlockKeys, pack
from core.ids import Epoch, WorkerId
from core.worker import WorkerLoad
from engine.base import KVEventMessage
from engine.vllm_kv_events import BlockStored
from router.prefix.prefixes import Prefixes
from router.prefix.prompt import PromptKeys

PROMPT_TOKENS = 32_768
WORKERS = 64
SEED = b"benchmark"
E = Epoch(1)
TIMES = 400


class Cluster:
    """A router's view of ``blocks`` blocks in all, that many with the prompt's own, on 64 workers."""

    def __init__(self, blocks: int, size: int, rng: random.Random) -> None:
        self.size, self.rng = size, rng
        self.prefixes = Prefixes(budget_blocks=2 * blocks)
        self.workers = [WorkerId(f"w{number}") for number in range(WORKERS)]
        self.request = EngineCoreRequest(
            *("r", [rng.randrange(128_000) for _ in range(PROMPT_TOKENS)], None, SamplingParams(), None, 0.0, None, None, None)
        )
        self.prefixes.enter(self.workers[0], size, SEED)
        prompt = self.keys()
        self.sequence = 0
        gc.collect()
        before = psutil.Process().memory_info().rss
        for number, worker in enumerate(self.workers):
            self.prefixes.enter(worker, size, SEED)
            held = list(prompt.by_size[size][: rng.randrange(1, len(prompt.by_size[size]) + 1)]) if number % 3 == 0 else []
            held += [random_key(rng) for _ in range(blocks // WORKERS - len(held))]
            self._join(worker, held)
        self.bytes_per_block = (psutil.Process().memory_info().rss - before) / len(self.prefixes.index)
        for number in range(64):
            other = prompt.by_size[size][: 1 + number * len(prompt.by_size[size]) // 128]
            self.prefixes.sent(self.workers[number], PromptKeys(PROMPT_TOKENS, {size: [*other, random_key(rng)]}), 0.0)

    def _join(self, worker: WorkerId, held: Sequence[BlockKey]) -> None:
        want = self.prefixes.heard(worker, Pulse(E, WorkerLoad()), 0.0)
        assert want is not None
        parts = [held[at : at + 8192] for at in range(0, len(held), 8192)] or [[]]
        for number, part in enumerate(parts):
            self.prefixes.heard(worker, KVSnapshot(E, want.number, 0, number, number == len(parts) - 1, pack(part)), 0.0)
        assert self.prefixes.is_current(worker)

    def keys(self) -> PromptKeys:
        """The prompt's."""
        return self.prefixes.keys(self.request)

    def changes(self, stored: Sequence[BlockKey], removed: Sequence[BlockKey]) -> bytes:
        """The next message of worker 0."""
        self.sequence += 1
        return encode(KVChanges(E, self.sequence, False, pack(stored), pack(removed)))

    def hears(self, frame: bytes) -> None:
        message = decode_from_worker(frame)
        assert self.prefixes.heard(self.workers[0], message, 0.0) is None


def random_key(rng: random.Random) -> BlockKey:
    return BlockKey(rng.getrandbits(64))


def row(what: str, took_s: Sequence[float], per: int = 1, note: str = "") -> None:
    """p50 and p99 in microseconds, of one call and, where it is of several, of one of them."""
    p50, p99 = statistics.median(took_s) * 1e6, sorted(took_s)[len(took_s) * 99 // 100] * 1e6
    each = f"{p50 / per:.2f}" if per > 1 else ""
    print(f"| {what} | {p50:.1f} | {p99:.1f} | {each} | {note} |")


def timed(call: Callable[[], object], times: int = TIMES) -> list[float]:
    took: list[float] = []
    for _ in range(times):
        began = time.thread_time()
        call()
        took.append(time.thread_time() - began)
    return took


def lookups(cluster: Cluster) -> None:
    """For one request: the keys, what is known under them, both."""
    prompt, prefixes = cluster.keys(), cluster.prefixes
    blocks = len(prompt.by_size[cluster.size])
    unknown = PromptKeys(PROMPT_TOKENS, {cluster.size: [random_key(cluster.rng) for _ in range(blocks)]})
    name = f"{cluster.size}-token blocks"
    hits = prefixes.cached_tokens(prompt, 0.0)
    row(f"keys of the prompt, {name}", timed(cluster.keys), blocks)
    row(f"lookup, {name}", timed(lambda: prefixes.cached_tokens(prompt, 0.0)), blocks, f"{len(hits)} workers have some of it")
    row(f"lookup of an unknown prompt, {name}", timed(lambda: prefixes.cached_tokens(unknown, 0.0)))
    both = timed(lambda: prefixes.cached_tokens(cluster.keys(), 0.0))
    row(f"**keys and lookup, {name}**", both, note="target: under 1,000")
    row(f"a prompt is sent, {name}", timed(lambda: prefixes.sent(cluster.workers[1], prompt, 0.0)))


def events(cluster: Cluster) -> None:
    """Messages from one worker, as they come from the socket: as many keys stored as others removed."""
    for count in (1, 8, 128, 2048):
        batches = [[random_key(cluster.rng) for _ in range(count)] for _ in range(TIMES + 1)]
        frames = [cluster.changes(new, old) for old, new in zip([[], *batches], batches, strict=False)]
        took = [timed(lambda frame=frame: cluster.hears(frame), 1)[0] for frame in frames]  # type: ignore[misc]
        row(f"message: {count} stored, {count} removed", took[1:], 2 * count, "target: under 20 an event" if count == 1 else "")


def feed(size: int, rng: random.Random) -> None:
    """On the worker's side: the engine's events to keys."""
    for blocks in (1, 128):
        kv = KVFeed(E, BlockKeys(SEED, size), 10**9)
        messages = []
        for sequence in range(TIMES):
            token_ids = [rng.randrange(128_000) for _ in range(blocks * size)]
            stored = BlockStored([rng.getrandbits(64) for _ in range(blocks)], None, token_ids, size, "GPU")
            messages.append(KVEventMessage(sequence, msgspec.msgpack.encode([0.0, [stored]])))
        took = [timed(lambda message=message: kv.heard(message), 1)[0] for message in messages]  # type: ignore[misc]  # noqa: B023 - called at once
        row(f"worker: engine event of {blocks} blocks of {size} tokens", took, blocks)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--blocks", type=int, default=100_000, help="blocks in the index")
    parser.add_argument("--each", action="store_true", help="on every worker")
    arguments = parser.parse_args()
    blocks = arguments.blocks * (WORKERS if arguments.each else 1)
    rng = random.Random(1)
    print(f"{blocks:,} blocks on {WORKERS} workers, a prompt of {PROMPT_TOKENS:,} tokens\n")
    print("| what | p50 us | p99 us | p50 us for one | |\n|---|---|---|---|---|")
    for size in (16, 128):
        cluster = Cluster(blocks, size, rng)
        lookups(cluster)
        if size == 16:
            events(cluster)
            memory = cluster.bytes_per_block
            held = len(cluster.prefixes.index.held_by(cluster.workers[2]))
            row(f"a worker with {held:,} blocks goes", timed(lambda: cluster.prefixes.leave(cluster.workers[2]), 1), held)  # noqa: B023 - called at once
    feed(16, rng)
    print(f"\nMemory: {memory:.0f} bytes a block.")


if __name__ == "__main__":
    main()
