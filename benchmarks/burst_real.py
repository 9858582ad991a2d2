"""How soon a burst of prompts changes roles, from a client's point of view: ``python -m benchmarks.burst_real``.

Real Ray, real clock, one router, two prefill and four decode workers with simulated engines, a plan every half second, no room for
another worker. Eight requests a second with long answers; then, from one moment to the next, five times as many with prompts four times as
long. Timed is from the first of those to the router's first answer over HTTP that shows a worker in its new role, which is asked for
without a pause. Then the light traffic again, until the scaler has given the roles back, and the next burst.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx

from benchmarks.servers import baton

BURSTS = 10
BEFORE, AFTER = (8.0, 64, 64), (40.0, 256, 8)
"""Requests per second, prompt tokens and output tokens."""
CALM_S = 15.0
"""Before each burst: what is usual has to be known."""
BACK_S = 180.0
PREFILL, DECODE = 2, 4
CHANGES: dict[str, Any] = {
    "engine": {
        "kind": "simulated",
        "args": {"max_model_len": 4096},
        "simulated": {
            "vocab_size": 4096,
            "special_token_ids": [0, 1, 2, 3],
            "timing": {
                "type": "polynomial",
                "prefill_base_s": 0.005,
                "prefill_token_s": 0.001,
                "decode_base_s": 0.01,
                "decode_request_s": 0.004,
            },
        },
    },
    "prefill": {"count": PREFILL, "num_cpus": 0.1},
    "decode": {"count": DECODE, "num_cpus": 0.1},
    "kv_transfer": {"backend": "simulated", "lease_s": 5},
    "router": {"num_cpus": 0.1, "queue": {"max_wait_s": 600, "max_requests": 10_000}},
    "autoscaling": {
        "enabled": True,
        "interval_s": 0.5,
        "window_s": 10,
        "objective": {"ttft_s": 1.0, "tpot_s": 0.04},
        "prefill": {"min": PREFILL, "max": 8},
        "decode": {"min": 1, "max": 8},
        "gpu_budget": 0.1 * (PREFILL + DECODE),
        "season_s": None,
        "relabel_rest_s": 5,
    },
}


class Traffic:
    """Poisson arrivals; ``answers`` counts their outcomes."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.answers: Counter[str] = Counter()
        self._client = client
        self._rng = random.Random(1)
        self._asked: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def coming(self, rate: float, prompt_tokens: int, output_tokens: int) -> AsyncIterator[None]:
        """Until the end of the block, which waits for no answer."""

        async def come() -> None:
            while True:
                self._asked.add(asyncio.create_task(self._ask(prompt_tokens, output_tokens)))
                await asyncio.sleep(self._rng.expovariate(rate))

        source = asyncio.create_task(come())
        try:
            yield
        finally:
            source.cancel()

    async def answered(self) -> None:
        """When all that came so far have been. Raises what any of them has raised."""
        await asyncio.gather(*self._asked)

    async def _ask(self, prompt_tokens: int, output_tokens: int) -> None:
        prompt = self._rng.choices(range(300, 4096), k=prompt_tokens)
        answer = await self._client.post(
            "/v1/completions", json={"model": "demo", "prompt": prompt, "max_tokens": output_tokens, "ignore_eos": True}
        )
        self.answers[str(answer.status_code)] += 1


async def _roles(client: httpx.AsyncClient) -> Counter[str]:
    return Counter(worker["role"] for worker in (await client.get("/v1/baton/workers")).json()["workers"])


async def measure(url: str) -> tuple[list[float], Counter[str]]:
    """Seconds from each burst's first request until a worker's role has changed; and how many answers had which status."""
    times: list[float] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120.0, limits=limits) as client:
        traffic = Traffic(client)
        for number in range(BURSTS):
            async with traffic.coming(*BEFORE), asyncio.timeout(BACK_S):
                while (await _roles(client)) != {"prefill": PREFILL, "decode": DECODE}:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.2)
                await asyncio.sleep(CALM_S)
            began_s = time.perf_counter()
            async with traffic.coming(*AFTER), asyncio.timeout(BACK_S):
                while (await _roles(client))["prefill"] <= PREFILL:
                    pass
                times.append(time.perf_counter() - began_s)
            print(f"\rburst {number + 1} of {BURSTS}", end="", file=sys.stderr, flush=True)
            await traffic.answered()
    print(file=sys.stderr)
    return times, traffic.answers


def main() -> None:
    """Prints a line."""
    with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp") as own:  # no other ``baton up`` is taken for this one
        os.environ["TMPDIR"] = tempfile.tempdir = own
        with baton(CHANGES) as url:
            times, answers = asyncio.run(measure(url))
    times.sort()
    within = sum(took_s <= 1.0 for took_s in times)
    print(f"{len(times)} bursts: p50 {times[len(times) // 2]:.2f} s, at most {times[-1]:.2f} s, {within} within 1 s")
    print("answers: " + ", ".join(f"{count} with {status}" for status, count in sorted(answers.items())))


if __name__ == "__main__":
    main()
