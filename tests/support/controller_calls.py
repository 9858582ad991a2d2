"""Calls of the controller's methods from outside, as its own Serve application would make them. Also the program that makes them.

``python -m tests.support.controller_calls`` reads a JSON list per line: a method, and a worker and perhaps a role, or a role and a number.
It answers each with a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from core.worker import Role


class ControllerCalls:
    """One process that is connected to the Ray cluster of a `baton up` with this environment."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.controller_calls"],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, method: str, *arguments: str | int) -> str | None:
        """Calls; returns what went wrong, in the controller's words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self._process.stdin.flush()
        error: str | None = json.loads(self._process.stdout.readline())
        return error

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def calling(env: Mapping[str, str]) -> Iterator[ControllerCalls]:
    """Ready to call."""
    calls = ControllerCalls(env)
    try:
        yield calls
    finally:
        calls.close()


async def _answer(handle: Any, line: str) -> str | None:
    method, *arguments = (Role(part) if part in set(Role) else part for part in json.loads(line))
    try:
        await getattr(handle, method).remote(*arguments)
    except Exception as error:
        return str(getattr(error, "cause", None) or error)
    return None


async def _answer_all() -> None:
    """On a loop: as Baton sets Serve up, its handles need one."""
    from deploy import environment, run_state
    from deploy.local_ray import address_of

    environment.prepare(on_one_machine=False)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray  # reads these when it is imported
    from ray import serve

    state = run_state.read()
    assert state is not None
    ray.init(address=address_of(state.pid), log_to_driver=False, logging_level=logging.ERROR)
    handle = serve.get_deployment_handle("Controller", state.app)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await _answer(handle, line)), flush=True)  # noqa: T201 - its output is its answer


if __name__ == "__main__":
    asyncio.run(_answer_all())
