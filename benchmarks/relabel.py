"""How soon routers obey a new role: ``python -m benchmarks.relabel``.

Real Ray, simulated engines, one router, streams all the while. Timed is the controller's ``relabel``, from a caller's point of view, and
the time from the call to the router's first answer that shows the new role; that is asked for over HTTP without a pause, so that it is
told late rather than early.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import httpx

from benchmarks.servers import baton
from core.worker import Role

TIMES = 40
STREAMS = 8
CHANGES: dict[str, Any] = {
    "engine": {
        "kind": "simulated",
        "args": {"max_model_len": 4096},
        "simulated": {"vocab_size": 4096, "special_token_ids": [0, 1, 2, 3], "timing": {"type": "constant", "seconds": 0.02}},
    },
    "prefill": {"count": 2, "num_cpus": 0.1},
    "decode": {"count": 2, "num_cpus": 0.1},
    "kv_transfer": {"backend": "simulated", "lease_s": 5},
    "router": {"num_cpus": 0.1, "policy": "least_outstanding_tokens"},
}


@contextlib.contextmanager
def _own_directory() -> Iterator[None]:
    """So that no other ``baton up`` on this machine is taken for this one."""
    with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp") as own:
        os.environ["TMPDIR"] = tempfile.tempdir = own
        yield


def _controller() -> Any:
    from deploy import environment, run_state
    from deploy.local_ray import address_of

    environment.prepare(on_one_machine=False)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray  # reads these when it is imported
    from ray import serve

    state = run_state.read()
    assert state is not None
    ray.init(address=address_of(state.pid), log_to_driver=False, logging_level=logging.ERROR)
    return serve.get_deployment_handle("Controller", state.app)


async def _stream_on(client: httpx.AsyncClient, seed: int) -> None:
    rng = random.Random(seed)
    while True:
        body = {"model": "demo", "prompt": rng.choices(range(300, 4096), k=200), "max_tokens": 100, "ignore_eos": True}
        answer = await client.post("/v1/completions", json=body)
        if answer.is_error:
            raise RuntimeError(answer.text)


async def _roles(client: httpx.AsyncClient) -> dict[str, str]:
    return {worker["worker"]: worker["role"] for worker in (await client.get("/v1/baton/workers")).json()["workers"]}


async def _measure(url: str) -> list[tuple[float, float]]:
    """Seconds until the call returned and until the router showed it, of each relabelling."""
    controller, times = _controller(), []
    async with httpx.AsyncClient(base_url=url, timeout=120.0) as client:
        while len(roles := await _roles(client)) < 4:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.5)
        worker = min(worker for worker, role in roles.items() if role == "prefill")
        load = [asyncio.create_task(_stream_on(client, number)) for number in range(STREAMS)]
        await controller.relabel.remote(worker, Role.PREFILL)  # the handle's first call looks for the controller
        for number in range(TIMES):
            role = (Role.DECODE, Role.PREFILL)[number % 2]
            began_s = time.perf_counter()

            async def told(since_s: float = began_s, role: Role = role) -> float:
                await controller.relabel.remote(worker, role)
                return time.perf_counter() - since_s

            telling = asyncio.create_task(told())
            while (await _roles(client))[worker] != role:
                pass
            shown_s = time.perf_counter() - began_s
            times.append((await telling, shown_s))
            await asyncio.sleep(0.3)
        failed = [task for task in load if task.done()]
        for task in load:
            task.cancel()
        await asyncio.gather(*load, return_exceptions=True)
        if failed:
            raise RuntimeError(f"{len(failed)} streams failed: {failed[0].exception()!r}")
    return times


def _measure_into(results: Connection, url: str) -> None:
    results.send(asyncio.run(_measure(url)))


def _measured(url: str) -> list[tuple[float, float]]:
    """In a process of its own, which is killed: one that holds a handle cannot leave Ray while Serve goes on."""
    spawn = multiprocessing.get_context("spawn")
    results, theirs = spawn.Pipe(duplex=False)
    measuring = spawn.Process(target=_measure_into, args=(theirs, url), daemon=True)
    measuring.start()
    theirs.close()  # an end of theirs is an end then
    try:
        times: list[tuple[float, float]] = results.recv()
        return times
    finally:
        measuring.kill()
        measuring.join()


def main() -> None:
    """Prints both."""
    with _own_directory(), baton(CHANGES) as url:
        times = _measured(url)
    print(f"{TIMES} relabellings under {STREAMS} streams   p50 ms  p90 ms  max ms")
    for what, column in (("the call has returned", 0), ("the router obeys", 1)):
        took = sorted(1e3 * row[column] for row in times)
        print(f"{what:<34}{took[len(took) // 2]:8.0f}{took[len(took) * 9 // 10]:8.0f}{took[-1]:8.0f}")


if __name__ == "__main__":
    main()
