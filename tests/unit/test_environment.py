"""What Ray is told through the environment."""

from __future__ import annotations

import os
import subprocess
import sys

from deploy import environment


def test_what_the_user_has_set_wins(monkeypatch):
    """A default never replaces a value that is there."""
    for name in list(os.environ):
        if name.startswith(("RAY_", "BATON_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    environment.prepare(on_one_machine=False)
    told = {name: os.environ[name] for name in environment.DEFAULTS}
    for name in environment.DEFAULTS:
        monkeypatch.delenv(name)
    assert told == {**environment.DEFAULTS, "RAY_SERVE_ENABLE_HA_PROXY": "0"}


def test_env_prints_what_a_shell_can_read():
    """`eval "$(baton env)"` sets every default in a shell that has none of them."""
    names = sorted(environment.DEFAULTS)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BATON_"))}
    program = f'eval "$("{sys.executable}" -m deploy.cli env)"; printf "%s\\0" ' + " ".join(f'"${name}"' for name in names)
    said = subprocess.run(["sh", "-c", program], env=clean, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    assert said == [environment.DEFAULTS[name] for name in names]
