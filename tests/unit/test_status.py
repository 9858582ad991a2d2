"""``baton status``: what it sends, what it makes of the answer, and what it says when there is none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from deploy import cli
from deploy.cmd_status import API_KEY

WORKER: dict[str, Any] = {
    "worker": "prefill-1",
    "role": "prefill",
    "state": "ready",
    "phase": "ready",
    "running": 2,
    "waiting": 0,
    "num_blocks": 100,
    "free_blocks": 75,
    "leased_blocks": 5,
    "stranded_blocks": 0,
    "age_s": 130.0,
    "restarts": 0,
    "address": "tcp://127.0.0.1:5",
    "node": "127.0.0.1",
}
STATUS: dict[str, Any] = {"app": "baton", "model": "demo", "wanted": {"prefill": 1}, "workers": [WORKER], "failures": []}


class Routers(HTTPServer):
    """One that asks for the key ``secret``."""

    status: dict[str, Any] = STATUS


class Handler(BaseHTTPRequestHandler):
    server: Routers

    def do_GET(self) -> None:
        known = self.headers.get("authorization") == "Bearer secret" and self.path in {"/v1/baton/status", "/v1/baton/status?model=org%2Fa"}
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(self.server.status).encode() if known else b"{}")

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def router() -> Iterator[Routers]:
    with Routers(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server
        server.shutdown()
        serving.join()


def status(router: Routers, *options: str) -> int:
    return cli.main(["status", "--url", f"http://127.0.0.1:{router.server_port}/", *options])


def test_the_key_comes_from_the_environment(router: Routers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without it, or with another, it says which variable to set; with it, there is a table."""
    monkeypatch.delenv(API_KEY, raising=False)
    assert status(router) == 1
    assert f"401 Unauthorized; put a key the routers know into {API_KEY}" in capsys.readouterr().err
    monkeypatch.setenv(API_KEY, "secret")
    assert status(router) == 0
    told = capsys.readouterr().out
    assert "baton: demo at http://127.0.0.1" in told
    assert "prefill 1/1 ready" in told
    assert "prefill-1  prefill  ready  2        0        25 %     5 blocks  2 min" in told


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"state": "draining"}, 1, "draining"),
        ({"state": "starting", "phase": "loading the model", "num_blocks": 0, "free_blocks": 0}, 1, "starting: loading the model"),
        ({"stranded_blocks": 3}, 0, "5 blocks, 3 stranded"),
    ],
)
def test_what_is_amiss_is_shown(
    router: Routers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    code: int,
    words: str,
) -> None:
    """And the exit status says whether the pools are complete."""
    monkeypatch.setenv(API_KEY, "secret")
    router.status = {**STATUS, "workers": [{**WORKER, **changed}]}
    assert status(router) == code
    assert words in capsys.readouterr().out
    assert status(router, "--json") == code
    assert json.loads(capsys.readouterr().out) == router.status


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    """The address, the cause, and where to look."""
    assert cli.main(["status", "--url", "http://127.0.0.1:9"]) == 1
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_several_models_one_below_the_other(router: Routers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its own table, and with what is wrong where there is none; status 0 only where all are complete. One can be meant."""
    monkeypatch.setenv(API_KEY, "secret")
    router.status = {"models": {"org/a": STATUS | {"app": "baton:org-a", "model": "org/a"}, "b": {"error": "its controller is away"}}}
    assert status(router) == 1
    told = capsys.readouterr().out
    assert "baton:org-a: org/a at" in told
    assert told.rstrip().endswith("b: its controller is away")
    router.status = STATUS
    assert status(router, "--model", "org/a") == 0
