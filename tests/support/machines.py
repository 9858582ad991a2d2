"""Several machines on one: network namespaces with an address each, joined by a bridge; they have nothing else in common but the disk.

The test itself has a leg in that network. Nothing of the machine's own network is changed. Wants root and Linux; ``why_not`` says what
is missing.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from tests.support.processes import wait_until


def why_not() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces want root"
    if shutil.which("ip") is None:
        return "network namespaces want `ip` (iproute2)"
    name = f"bt{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


@dataclass(frozen=True)
class Machine:
    """A namespace and its address."""

    name: str
    namespace: str
    address: str

    @property
    def inside(self) -> list[str]:
        """What makes a command one of this machine's."""
        return ["ip", "netns", "exec", self.namespace]

    def received_bytes(self) -> int:
        """By its network card, from other machines."""
        return int(_run(*self.inside, "cat", "/sys/class/net/eth0/statistics/rx_bytes"))

    def processes(self) -> list[int]:
        """All in its namespace."""
        return [int(pid) for pid in _run("ip", "netns", "pids", self.namespace).split()]

    def lose_power(self) -> None:
        """No word to anybody: its cable goes first, so that not even the kernel says goodbye."""
        _run(*self.inside, "ip", "link", "set", "eth0", "down")
        self.end()

    def end(self) -> None:
        """No process of it lives afterwards, those included that began meanwhile."""
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=1.0)


class Machines:
    """As many as are added. ``close`` removes everything, however far it came."""

    def __init__(self) -> None:
        self._tag = f"b{os.getpid() % 10_000_000}"  # names of links have at most 15 characters
        # Of the range for benchmarks of networks (RFC 2544): nobody's own.
        self._net = f"198.18.{random.randrange(256)}"
        self._switch = f"{self._tag}-sw"
        self._machines: list[Machine] = []
        try:
            _run("ip", "netns", "add", self._switch)
            self._on_switch("ip", "link", "add", "sw", "type", "bridge")
            self._on_switch("ip", "link", "set", "sw", "up")
            leg = f"{self._tag}-t"
            _run("ip", "link", "add", leg, "type", "veth", "peer", "name", "test", "netns", self._switch)
            self._plug("test")
            _run("ip", "addr", "add", f"{self._net}.254/24", "dev", leg)
            _run("ip", "link", "set", leg, "up")
        except BaseException:
            self.close()
            raise

    def add(self, name: str) -> Machine:
        """A machine more; nothing runs on it."""
        machine = Machine(name, f"{self._tag}-{name}", f"{self._net}.{len(self._machines) + 1}")
        _run("ip", "netns", "add", machine.namespace)
        self._machines.append(machine)
        self._on_switch("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", machine.namespace)
        self._plug(name)
        for command in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{machine.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            # As every machine has one: programs find their own address by asking where a packet to the world would leave.
            ("route", "add", "default", "via", f"{self._net}.254"),
        ):
            _run(*machine.inside, "ip", *command)
        return machine

    def close(self) -> None:
        """Every process, namespace and link is gone, or going: the kernel takes a moment."""
        for machine in self._machines:
            machine.end()
        for namespace in (*(machine.namespace for machine in self._machines), self._switch):
            # A link goes with either end's namespace, so the test's leg goes with the switch.
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)

    def left(self) -> list[str]:
        """What is still there of it, in words: for after ``close``."""
        spaces = [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line.startswith(f"{self._tag}-")]
        return [*spaces, *(line for line in _run("ip", "-o", "link").splitlines() if f" {self._tag}-" in line)]

    def _on_switch(self, *command: str) -> str:
        return _run("ip", "netns", "exec", self._switch, *command)

    def _plug(self, link: str) -> None:
        self._on_switch("ip", "link", "set", link, "master", "sw")
        self._on_switch("ip", "link", "set", link, "up")


@contextlib.contextmanager
def machines() -> Iterator[Machines]:
    """None yet. On the way out, also of a failed test, nothing of them is left."""
    made = Machines()
    try:
        yield made
    finally:
        made.close()
        wait_until(lambda: not made.left(), 10.0, f"no namespace or link is left of {made.left()}")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr.strip()}"
    return done.stdout
