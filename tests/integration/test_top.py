"""``baton top`` in a terminal and in a pipe, over a real router with simulated workers."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.support.console_stage import Controller, ask, console_server
from tests.support.eventually import assert_eventually
from tests.support.processes import free_port
from tests.support.router_server import RouterServer

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

PROMPT = list(range(16, 316))
TOP = (sys.executable, "-m", "deploy.cli", "top")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[RouterServer]:
    """Two workers of each kind, and a scaler that has much to say."""
    controller = Controller()
    controller.scale()
    async with console_server(status=controller.status, scaling=controller.scaling) as server:
        yield server


async def test_one_frame_for_a_pipe(server: RouterServer) -> None:
    """``baton top --once`` prints what the console shows, without colours, and ends."""
    async with httpx.AsyncClient(base_url=server.url) as client:

        async def heard() -> bool:
            """A router asks for plans every two seconds at most: that it knows of these."""
            return "add 1 to prefill" in (await client.get("/v1/baton/console")).text

        await assert_eventually(heard)
    assert (await ask(server, PROMPT, 4, **{"x-request-id": "piped"})).is_success
    top = await asyncio.create_subprocess_exec(*TOP, "--once", "--url", server.url, stdout=asyncio.subprocess.PIPE)
    told, _ = await top.communicate()
    assert top.returncode == 0
    for said in ("2 of 2 ready", "decode-1", "cmpl-piped", "hand-offs", "add 1 to prefill"):
        assert said in told.decode()
    assert b"\x1b" not in told


async def test_top_says_why_there_is_nothing_to_see(server: RouterServer) -> None:
    """Where nobody listens, in one line, with status 1."""
    top = await asyncio.create_subprocess_exec(*TOP, "--url", f"http://127.0.0.1:{free_port()}", stderr=asyncio.subprocess.PIPE)
    _, told = await top.communicate()
    assert top.returncode == 1
    assert b"does not answer" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("leave", ["q", "Ctrl-C"])
async def test_top_comes_and_goes(server: RouterServer, leave: str) -> None:
    """Drawn anew on a terminal of 80 columns until q or Ctrl-C, which end it well and leave the terminal as it was."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
    before, screen = termios.tcgetattr(its), bytearray()
    asyncio.get_running_loop().add_reader(ours, lambda: screen.extend(os.read(ours, 65536)))
    try:
        top = await asyncio.create_subprocess_exec(*TOP, "--url", server.url, stdin=its, stdout=its, env={**os.environ, "TERM": "xterm"})
        await assert_eventually(lambda: screen.count(b"router-0") > 2, 30.0, "it draws again and again")
        assert termios.tcgetattr(its) != before
        if leave == "q":
            os.write(ours, b"q")
        else:
            top.send_signal(signal.SIGINT)
        async with asyncio.timeout(20.0):
            assert await top.wait() == 0
        assert termios.tcgetattr(its) == before
        await assert_eventually(lambda: b"\x1b[?25h" in screen and b"\x1b[?1049l" in screen, 5.0, "cursor and screen are back")
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
        os.close(its)
