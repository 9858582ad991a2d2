"""`baton doctor` as a user types it, on this machine: real bytes by NIXL, and nothing left of it. Of a cluster: test_nodes."""

from __future__ import annotations

import json
import signal
import socket

import pytest

from tests.support.cluster_process import Home, eventually, simulated_args

pytestmark = pytest.mark.integration


def test_it_moves_real_bytes_and_finds_what_is_wrong(home: Home) -> None:
    """Two processes exchange bytes by NIXL and TCP; a taken port fails, says what to do, and is the exit status."""
    vllm = {"model": "demo", "host": "127.0.0.1"}
    with socket.create_server(("127.0.0.1", home.port)):
        found = home.baton("doctor", home.file(vllm), "--json")
    assert found.returncode == 1, found.stderr
    lines = {line["check"]: line for line in json.loads(found.stdout)["lines"]}
    assert "Gb/s" in lines["link"]["found"], lines["link"]
    assert lines["link"]["found"].startswith("NIXL ")
    assert lines["NIXL"]["verdict"] == lines["link"]["verdict"] == lines["versions"]["verdict"] == "ok"
    assert (lines["ports"]["verdict"], [name for name, line in lines.items() if line["verdict"] == "fail"]) == ("fail", ["ports"])
    assert f"127.0.0.1:{home.port}" in lines["ports"]["found"]
    assert "http_options.port" in lines["ports"]["advice"]
    assert not home.processes()


def test_a_wrong_file_is_a_line_and_the_rest_is_looked_at(home: Home) -> None:
    """What is wrong with it is said with its line; checks that need no configuration are made all the same."""
    found = home.baton("doctor", home.file({**simulated_args(), "prefil": {}}))
    assert found.returncode == 1
    assert "FAIL  configuration" in found.stdout
    assert "did you mean `prefill`" in found.stdout
    assert "ok    link" in found.stdout


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_it_is_ended_midway(home: Home, end: signal.Signals) -> None:
    """Ctrl-C and kill -9 end the examining processes, too."""
    doctor = home.start("doctor", home.file(simulated_args()))
    eventually(lambda: len(home.processes()) >= 3, 30.0, "both examiners are there")
    if end is signal.SIGINT:
        doctor.interrupt()
        assert doctor.wait(60.0) == 130, doctor.output
    else:
        doctor.kill()
    eventually(lambda: not home.processes(), 10.0, "everything has ended")
