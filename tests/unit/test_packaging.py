"""What is installed is what is in the repository, and the files that describe it agree with each other."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = [name for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] if "*" not in name]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def pins(lock: Path) -> dict[str, str]:
    return dict(line.split("==") for line in lock.read_text().split())


NOT_INSTALLED = {"deploy": ("docker/", "kuberay/", "ray/", "test_tools.sh")}
"""What is used from the repository only: nothing that runs reads it."""


def test_data_is_installed_too() -> None:
    """Every file of a package that is not Python is package data, so that an install that is a copy, as in the image, has it."""
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for name in FOLDERS:
        files = {path for path in (ROOT / name).rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
        needed = {path for path in files if not str(path.relative_to(ROOT / name)).startswith(NOT_INSTALLED.get(name, ()))}
        packed = {path for pattern in data.get(name, []) for path in (ROOT / name).glob(pattern)}
        assert needed <= packed, sorted(str(path.relative_to(ROOT)) for path in needed - packed)


def test_every_folder_is_a_package():
    """Each top-level folder with an __init__.py is listed, and nothing else."""
    assert sorted(FOLDERS) == sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def test_folders_win_over_strangers(tmp_path):
    """Imported from anywhere, `router` and the others are this repository's, not a distribution of the same name."""
    program = "import importlib, sys\nfor name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run([sys.executable, "-c", program, *FOLDERS], cwd=tmp_path, env=clean, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(ROOT / name / "__init__.py") for name in FOLDERS]


def test_the_command_starts_fast(tmp_path):
    """`baton --help` imports neither Ray nor vLLM nor torch, and shows every command."""
    program = (
        "import sys, deploy.cli\ntry: deploy.cli.main(['--help'])\nfinally: print('heavy:', {'ray', 'vllm', 'torch'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "heavy: set()" in shown
    assert "check-config" in shown


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_locks_pin_everything(lock):
    """Each line is one package with its exact version; no option, no address."""
    lines = lock.read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][A-Za-z0-9.+]*", line)] == []
    assert len(pins(lock)) == len(lines)


def test_locks_agree_with_the_extras():
    """What pyproject.toml pins is in the lock of that name, with that version; the tools are in both."""
    extras = PROJECT["project"]["optional-dependencies"]
    for kind in ("cpu", "gpu"):
        locked = pins(ROOT / "requirements" / f"{kind}.lock")
        for requirement in [*PROJECT["project"]["dependencies"], *extras[kind], *extras["dev"]]:
            name, _, version = requirement.partition("==")
            name = re.split(r"[\[>=]", name)[0].lower()
            assert name in locked
            assert version in {"", locked[name]}


def test_cpu_lock_is_for_the_cpu():
    """vLLM's CPU wheel on torch's CPU build, and none of the CUDA builds that break it."""
    locked = pins(ROOT / "requirements" / "cpu.lock")
    assert locked["torch"].endswith("+cpu")
    assert not {"vllm", "torchvision", "torchaudio", "torchcodec"} & set(locked)
    assert [name for name in locked if name.startswith("nvidia-")] == []


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_set_up_takes_every_package_once(name):
    """The phases of set-up share out the whole lock, torch first."""
    from deploy.setup_venv import packages

    lock = ROOT / "requirements" / f"{name}.lock"
    phases = packages(lock)
    assert sorted(requirement for phase in phases for requirement in phase) == sorted(lock.read_text().split())
    assert phases[0][0].startswith("torch==")


def test_set_up_notices_changes(tmp_path):
    """The stamp's fingerprint changes with the lock."""
    from deploy.setup_venv import fingerprint

    lock = tmp_path / "a.lock"
    lock.write_text("a==1\n")
    before = fingerprint(lock)
    assert fingerprint(lock) == before
    lock.write_text("a==2\n")
    assert fingerprint(lock) != before


def test_half_installed_packages_are_done_again(tmp_path, monkeypatch):
    """A package whose files are cut short, or whose record is missing, loses its metadata, so that pip installs it anew."""
    from deploy import setup_venv

    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, record in {"whole": "whole.py,sha256=x,3\n", "cut": "cut.py,sha256=x,9\n", "unrecorded": None}.items():
        info = site / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text("a=1")
        if record:
            (info / "RECORD").write_text(record)
    monkeypatch.setattr(setup_venv, "VENV", tmp_path)
    assert setup_venv.forget_broken() == 2
    assert [path.name for path in site.glob("*.dist-info")] == ["whole-1.dist-info"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lists_its_targets():
    """`make` alone says what there is to do."""
    shown = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target} " in shown for target in ("setup", "demo", "test", "check", "bench", "lock"))
