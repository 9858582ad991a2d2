"""Makes ``.venv`` from a lock file: ``python deploy/setup_venv.py requirements/cpu.lock``. ``make`` calls it before all else.

It runs before anything is installed, so it uses the standard library only and parses on any Python 3. A stamp written at the
very end holds the hash of what was installed; while that still fits, a run does nothing. An interrupted run leaves no stamp,
and the next one keeps every package that is whole.
"""

from __future__ import annotations

import collections
import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "baton-setup"
LOG = VENV / "baton-setup.log"

# The order: torch first, for it alone may come from another index; then what is large and named, so that progress means something.
PHASES = [
    ("PyTorch", re.compile(r"torch")),
    ("vLLM and NIXL", re.compile(r"vllm|nixl|triton|nvidia-|flashinfer|intel-")),
    ("Ray", re.compile(r"ray(-|$)")),
    ("everything they use", re.compile(r"")),
]
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED_GIB = {"cpu": 7, "gpu": 24}
"""Free disk for a whole set-up: what is installed, and the downloaded files beside it."""


class SetupError(Exception):
    """Set-up cannot go on; the text says what to do."""


def fingerprint(lock: Path) -> str:
    """Changes with anything that a set-up's result depends on, the place of the checkout included: scripts name it."""
    digest = hashlib.sha256()
    for part in (lock.read_bytes(), (ROOT / "pyproject.toml").read_bytes(), str(ROOT).encode()):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def packages(lock: Path) -> list[list[str]]:
    """The lock's lines, shared out over PHASES."""
    phases: list[list[str]] = [[] for _ in PHASES]
    for line in lock.read_text().splitlines():
        requirement = line.split("#")[0].strip()
        if requirement:
            matches = (i for i, (_, names) in enumerate(PHASES) if names.match(requirement.split("==")[0]))
            phases[next(matches)].append(requirement)
    return phases


def check_machine(kind: str) -> None:
    """Raises SetupError where set-up would fail later, with a worse message."""
    if sys.version_info[:2] != (3, 11):
        raise SetupError(
            f"This is Python {sys.version_info[0]}.{sys.version_info[1]} ({sys.executable}); Baton needs 3.11.\n"
            "Install Python 3.11, or say where it is: make setup PYTHON=/path/to/python3.11"
        )
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise SetupError(
            f"The locks are for Linux on x86_64; this is {sys.platform} on {os.uname().machine}. Run Baton in a container of that kind."
        )
    free = shutil.disk_usage(ROOT).free / 2**30
    have = 0 if not VENV.exists() else NEEDED_GIB[kind] // 2  # part of it is there already
    if free < NEEDED_GIB[kind] - have:
        raise SetupError(
            f"{free:.1f} GiB are free on the disk of {ROOT}; set-up needs {NEEDED_GIB[kind] - have}.\n"
            "Make room, or move the checkout to a larger disk. `pip cache purge` empties pip's own cache."
        )


def make_venv() -> None:
    """Makes the environment with a working pip, over an incomplete one if need be. Raises SetupError."""
    if PYTHON.exists() and _quiet(PYTHON, "-c", "import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))"):
        return
    if _quiet(sys.executable, "-m", "venv", "--clear", VENV):
        return
    # Debian's Python comes without ensurepip, but its pip can install itself into another environment.
    if _quiet(sys.executable, "-m", "venv", "--clear", "--without-pip", VENV) and _quiet(
        sys.executable, "-m", "pip", "--python", PYTHON, "install", "pip"
    ):
        return
    raise SetupError(
        f"`{sys.executable} -m venv` does not work, so there is nowhere to install to.\n"
        "On Debian and Ubuntu: apt install python3.11-venv. Then run the same command again."
    )


def forget_broken() -> int:
    """Removes the records of half-installed packages, so that pip installs them again; returns how many there were."""
    broken = 0
    for info in VENV.glob("lib/python3.11/site-packages/*.dist-info"):
        if not _is_whole(info):
            shutil.rmtree(info)
            broken += 1
    return broken


def _is_whole(info: Path) -> bool:
    try:
        with (info / "RECORD").open(newline="") as record:  # pip writes it last
            for name, _, size in csv.reader(record):
                if size and (info.parent / name).stat().st_size != int(size):
                    return False
    except (OSError, ValueError):
        return False
    return True


def install(title: str, requirements: list[str]) -> None:
    """Installs one phase's packages, showing how far pip is. Raises SetupError."""
    only_torch_cpu = [r for r in requirements if r.startswith("torch==") and r.endswith("+cpu")]
    if only_torch_cpu and not _pip(title, ["--no-deps", *only_torch_cpu], len(only_torch_cpu)):
        # pip was not told where CPU builds are; their own index has them.
        _pip(title + " from its own index", ["--no-deps", "--index-url", TORCH_CPU_INDEX, *only_torch_cpu], len(only_torch_cpu), last=True)
    rest = [r for r in requirements if r not in only_torch_cpu]
    if rest:
        _pip(title, ["--no-deps", "--only-binary=:all:", *rest], len(rest), last=True)


def _pip(title: str, arguments: list[str], count: int, last: bool = False) -> bool:
    """Runs ``pip install``. False if it failed; SetupError instead where this was the ``last`` way to try."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    lines: Queue[str] = Queue()
    Thread(target=_read_into, args=(process, lines), daemon=True).start()
    seen, state = 0, "looking"
    tail: collections.deque[str] = collections.deque(maxlen=40)
    progress = Progress(title)
    try:
        with LOG.open("a") as log:
            while process.poll() is None or not lines.empty():
                try:
                    line = lines.get(timeout=0.25)
                except Empty:
                    progress.show(state)
                    continue
                log.write(line)
                tail.append(line)
                if line.startswith(("Collecting ", "Requirement already satisfied")):
                    seen += 1
                    state = f"fetched {max(seen - 1, 0)} of {count} packages"
                elif line.startswith("Installing collected"):
                    state = f"unpacking {count} package{'s' * (count > 1)}"
                progress.show(state)
    except BaseException:
        process.terminate()  # Ctrl-C: pip must not go on behind the prompt
        process.wait()
        raise
    if process.returncode == 0:
        progress.end(f"{count} package{'s' * (count > 1)}")
    elif last:
        progress.end("failed")
        raise SetupError(_explain("".join(tail)))
    else:
        progress.end("not found where pip looks")
    return process.returncode == 0


def _read_into(process: subprocess.Popen[str], lines: Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)


def _explain(output: str) -> str:
    if "No space left" in output:
        return "The disk is full. Make room and run the same command again; it goes on where it stopped."
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if missing or re.search(r"(?i)connection|resolve|timed out|proxy|SSL", output):
        what = missing.group(1) if missing else "a package"
        return (
            f"pip cannot get {what}. Is the network there? Behind a proxy set HTTPS_PROXY; with a mirror set PIP_INDEX_URL or\n"
            f"PIP_FIND_LINKS. Then run the same command again: it goes on where it stopped. pip's own words are in {LOG.relative_to(ROOT)}"
        )
    return f"pip failed:\n{output}\nAll of its output is in {LOG.relative_to(ROOT)}"


def _quiet(*command: object) -> bool:
    return subprocess.run([str(word) for word in command], capture_output=True, check=False).returncode == 0


class Progress:
    """One line that grows old in place on a terminal, or is printed every ten seconds elsewhere."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = time.monotonic()
        self._shown = 0.0 if sys.stdout.isatty() else self._began
        self._every_s = 0.25 if sys.stdout.isatty() else 10.0

    def show(self, state: str) -> None:
        now = time.monotonic()
        if now - self._shown >= self._every_s:
            self._shown = now
            self._write(state, end="" if sys.stdout.isatty() else "\n")

    def end(self, state: str) -> None:
        self._write(state, end="\n")

    def _write(self, state: str, end: str) -> None:
        start = "\r\x1b[K" if sys.stdout.isatty() else ""
        print(f"{start}{self._title}: {state}, {time.monotonic() - self._began:.0f} s", end=end, flush=True)


def main(lock: Path) -> None:
    wanted = fingerprint(lock)
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    began = time.monotonic()
    check_machine("gpu" if "gpu" in lock.stem else "cpu")
    STAMP.unlink(missing_ok=True)
    phases = [(title, names) for (title, _), names in zip(PHASES, packages(lock), strict=True) if names]
    steps = len(phases) + 2
    total = sum(len(names) for _, names in phases)
    print(f"Setting up {VENV.relative_to(ROOT)} from {lock.name}: {total} packages in {steps} steps; minutes the first time", flush=True)

    step = Progress(f"[1/{steps}] virtual environment")
    make_venv()
    LOG.write_text("")
    broken = forget_broken()
    step.end(f"ready, {broken} half-installed packages to do again" if broken else "ready")
    for number, (title, names) in enumerate(phases, start=2):
        install(f"[{number}/{steps}] {title}", names)
    # Without isolation: the build would otherwise fetch setuptools, which the lock has installed already.
    _pip(f"[{steps}/{steps}] Baton itself", ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)], 1, last=True)
    STAMP.write_text(wanted)
    print(f"Set up in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "requirements" / "cpu.lock").resolve())
    except SetupError as error:
        sys.exit(f"\nSet-up stopped: {error}")
    except KeyboardInterrupt:
        sys.exit("\nSet-up stopped. The same command goes on where it was.")
