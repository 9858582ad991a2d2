"""`baton doctor` as a user types it, on this machine: real bytes by NIXL, and nothing left of it. Of a cluster: test_nodes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial

import msgspec
import pytest

from deploy.doctor.measured import Link
from tests.support.cluster_process import Command, Home, eventually, simulated_args
from tests.support.examine_from import SIZE_BYTES
from tests.support.machines import machines, why_not
from tests.support.net_nodes import BY_NETWORK, ROOT

pytestmark = pytest.mark.integration
WHY_NOT = why_not()


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


def _examines_or_was_done(home: Home, doctor: Command) -> bool:
    return len(home.processes()) >= 3 or not doctor.running


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_it_is_ended_midway(home: Home, end: signal.Signals) -> None:
    """Ctrl-C and kill -9 end the examining processes, too. It takes some seconds, with NIXL: one that is done before it can be ended is no
    test."""
    for _ in range(5):
        doctor = home.start("doctor", home.file({"model": "demo", "host": "127.0.0.1"}))
        eventually(partial(_examines_or_was_done, home, doctor), 30.0, "both examiners are there, or it was done before")
        if doctor.running:
            if end is signal.SIGINT:
                doctor.interrupt()
            else:
                doctor.kill()
        status = doctor.wait(60.0)
        eventually(lambda: not home.processes(), 30.0, "everything has ended")
        if status != 0:
            break
    assert status == (130 if end is signal.SIGINT else -signal.SIGKILL), doctor.output


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_nixl_moves_bytes_between_two_addresses() -> None:
    """Between machines that have only a network in common, all that is said to have come has come in by the card."""
    env = {**os.environ, **BY_NETWORK}
    examiner = [sys.executable, "-m", "tests.support.examine_from"]
    with machines() as made:
        far, near = made.add("far"), made.add("near")
        keep = [*far.inside, *examiner, far.address, "keep"]
        with subprocess.Popen(keep, env=env, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
            assert keeper.stdout is not None
            kept = keeper.stdout.readline()
            before = near.received_bytes()
            read = subprocess.run(
                [*near.inside, *examiner, near.address, "read", kept], env=env, cwd=ROOT, capture_output=True, text=True, check=False
            )
        received = near.received_bytes() - before
        assert read.returncode == 0, read.stderr
        link = msgspec.json.decode(read.stdout, type=Link)
        assert link.nixl is not None
        assert (link.tcp.problem, link.nixl.problem) == ("", "")
        # Beside what was timed there is NIXL's first read.
        assert received >= link.tcp.moved_bytes + link.nixl.moved_bytes + SIZE_BYTES


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_a_machine_that_is_cut_off_is_said_to_be() -> None:
    """A link with no way through says which address cannot be reached, and does not wait for NIXL to find out."""
    with machines() as made:
        far, near = made.add("far"), made.add("near")
        kept = json.dumps({"address": far.address, "port": 9, "offer": "not asked"})
        far.lose_power()
        read = subprocess.run(
            [*near.inside, sys.executable, "-m", "tests.support.examine_from", near.address, "read", kept],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert read.returncode == 0, read.stderr
        link = msgspec.json.decode(read.stdout, type=Link)
        assert f"{far.address}:9 cannot be reached" in link.tcp.problem
