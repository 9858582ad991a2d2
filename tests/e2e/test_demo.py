"""`make demo ONCE=1`, as a newcomer runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from tests.support.processes import free_port

pytestmark = pytest.mark.e2e

LIMIT_S = 240


def test_one_answer_by_two_workers():
    """Status 0, and the terminal shows progress, the answer, where the time went and that two workers shared it. Nothing stays."""
    with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp") as home:
        cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
        env = {**os.environ, "TMPDIR": home, "HOME": home, "XDG_CACHE_HOME": cache}
        command = [sys.executable, "-m", "deploy.cli", "demo", "--once", "--port", str(free_port())]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        try:
            said, _ = process.communicate(timeout=LIMIT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)
        assert process.returncode == 0, said
        for told in ("Ray is up", "loading the model", "where the time went", "served by two workers", "everything has ended"):
            assert told in said
        assert os.listdir(os.path.join(home, f"baton-{os.getuid()}")) == []
