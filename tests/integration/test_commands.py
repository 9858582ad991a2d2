"""The ``baton`` command as people use it, and misuse it: what it says, how it exits, and that nothing of it is left.

Ctrl-C while serving, pressed again and again, is how ``test_ray_stack`` ends its cluster; ``test_drain``'s comes with ``up --detach`` and
goes with ``down``.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.cluster_process import MODEL, START_LIMIT_S, STOP_LIMIT_S, Home, eventually, port_outside_linux_own, simulated_args

pytestmark = pytest.mark.integration

KILLED_LIMIT_S = 15.0
"""How long anything of a killed `baton up` may live on; a noisy machine is given more."""


# -- without a cluster -------------------------------------------------------------------------------------------------------


def test_check_config_says_what_a_good_file_asks_for(home: Home) -> None:
    """Exit status 0 and a summary: pools, model, address."""
    checked = home.baton("check-config", home.file(simulated_args(prefill=2, decode=3)))
    assert checked.returncode == 0, checked.stderr
    said = {line.split()[0]: line for line in checked.stdout.splitlines()[1:]}
    assert "2 workers" in said["prefill"]
    assert "3 workers" in said["decode"]
    assert home.url in said["listens"]


@pytest.mark.parametrize("command", ["check-config", "up"])
def test_a_wrong_file_is_refused_by_its_line(home: Home, command: str) -> None:
    """Exit status 1, file:line and the rule; ``up`` starts nothing."""
    file = home.file({**simulated_args(), "prefil": {"count": 2}})
    line = next(number for number, text in enumerate(file.read_text().splitlines(), start=1) if "prefil:" in text)
    refused = home.baton(command, file)
    assert refused.returncode == 1
    assert f"{file}:{line}: " in refused.stderr
    assert "prefil" in refused.stderr
    assert "Ray" not in refused.stderr
    assert not home.processes()
    assert not (home.path / f"baton-{os.getuid()}").exists()


@pytest.mark.parametrize("command", ["status", "down"])
def test_nothing_is_up(home: Home, command: str) -> None:
    """Both say so. Not an error to ``down``: what was asked for is the case."""
    answered = home.baton(command)
    assert answered.returncode == (1 if command == "status" else 0)
    assert "nothing of yours is up" in answered.stderr


def test_a_port_that_is_taken(home: Home) -> None:
    """Said at once, with the address and what to change; Ray is not even started."""
    with socket.create_server(("127.0.0.1", home.port)):
        refused = home.baton("up", home.file(simulated_args()))
    assert refused.returncode == 1
    assert f"cannot listen at 127.0.0.1:{home.port}" in refused.stderr
    assert "http_options.port" in refused.stderr
    assert "Ray is up" not in refused.stderr
    home.assert_nothing_left(home.footprint())


def test_a_model_directory_that_is_not_there(home: Home) -> None:
    """Said at once, by name; Ray is not even started."""
    refused = home.baton("up", home.file({"model": "/nonexistent/model"}))
    assert refused.returncode == 1
    assert "/nonexistent/model" in refused.stderr
    assert "Ray is up" not in refused.stderr
    home.assert_nothing_left(home.footprint())


# -- coming up and not getting there -----------------------------------------------------------------------------------------


def test_a_model_that_nobody_has(home: Home) -> None:
    """Found out by the workers or the router: given up after two tries with the model's name and the logs' place; nothing runs on."""
    server = home.start("up", home.file({"model": "nobody/has-this", "host": "127.0.0.1", "router": {"num_cpus": 0.25}}))
    assert server.wait(240.0) == 1, server.output
    assert "failed: " in server.output
    assert "nobody/has-this" in server.output
    [kept] = (home.path / f"baton-{os.getuid()}").glob("logs-*")
    assert str(kept) in server.output
    home.assert_nothing_left(home.footprint(), logs=True)


@pytest.mark.parametrize("after", ["Ray is up", "starting its process"])
def test_ctrl_c_while_coming_up(home: Home, after: str) -> None:
    """Ends cleanly wherever it was, with the status of an interrupted command."""
    server = home.start("up", home.file(simulated_args()))
    server.wait_ready(lambda: after in server.output, 120.0)
    footprint = home.footprint()
    server.interrupt()
    assert server.wait(STOP_LIMIT_S) == 130, server.output
    assert "serving " not in server.output
    assert "everything has ended" in server.output
    home.assert_nothing_left(footprint)


def test_nothing_outlives_a_killed_up(home: Home) -> None:
    """``kill -9`` of `baton up` while its workers load: Ray, workers and HAProxy end all the same, and their files go."""
    server = home.start("up", home.file(simulated_args(decode=2)))
    server.wait_ready(lambda: server.output.count("starting its process") == 3, 120.0)
    eventually(lambda: home.titled("ray::WorkerActor"), 30.0, "a worker has its process")
    footprint = home.footprint()
    assert footprint.processes > 10
    os.kill(server.pid, signal.SIGKILL)
    home.assert_nothing_left(footprint, 3 * KILLED_LIMIT_S)
    assert home.baton("status").returncode == 1


# -- on somebody else's Ray --------------------------------------------------------------------------------------------------

RAY_START = """\
import os, pathlib, sys
from deploy import environment
environment.prepare(on_one_machine=True, files=pathlib.Path(os.environ["TMPDIR"]) / "h")
os.execv(sys.argv[1], sys.argv[1:])
"""
"""A node of a Ray cluster with the environment that Baton wants on every node."""


def test_serve_deploy_does_what_up_does(home: Home) -> None:
    """The same file on a Ray cluster: workers come, requests are answered, ``status --url`` tells; ``serve shutdown`` ends the workers."""
    scripts = Path(sys.executable).parent
    dashboard, agent, client = (port_outside_linux_own() for _ in range(3))
    ray = home.start_other(
        *(
            sys.executable,
            "-c",
            RAY_START,
            scripts / "ray",
            "start",
            "--head",
            "--block",
            "--num-cpus=4",
            f"--temp-dir={home.path / 'ray'}",
        ),
        *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        # Ray's own choices are for one cluster per machine.
        *("--port=0", "--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={agent}"),
        f"--ray-client-server-port={client}",
    )
    at = f"http://127.0.0.1:{dashboard}"
    serves_api = lambda: home.run(scripts / "serve", "status", "-a", at).returncode == 0  # noqa: E731
    ray.wait_ready(serves_api, 120.0)
    deployed = home.run(scripts / "serve", "deploy", "-a", at, home.file(simulated_args()))
    assert deployed.returncode == 0, deployed.stderr

    def answers() -> bool:
        try:
            asked = {"model": MODEL, "prompt": "Where is the baton?", "max_tokens": 8}
            assert httpx.get(f"{home.url}/v1/models").status_code in (200, 404, 503)
            answer = httpx.post(f"{home.url}/v1/completions", json=asked, timeout=30.0)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 8

    eventually(answers, START_LIMIT_S / 3, "a completion is answered")
    eventually(lambda: home.baton("status", "--url", home.url).returncode == 0, 30.0, "every worker is ready")
    assert len(home.titled("ray::WorkerActor")) == 2

    assert home.run(scripts / "serve", "shutdown", "-y", "-a", at).returncode == 0
    eventually(lambda: not home.titled("ray::WorkerActor"), 30.0, "the workers have ended")
    assert ray.terminate(STOP_LIMIT_S) is not None
