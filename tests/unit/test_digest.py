"""Which version's result a result is."""

from __future__ import annotations

import pytest

from benchmarks import digest
from benchmarks.autoscale import runs as autoscale
from benchmarks.goodput import setups as goodput
from benchmarks.published import runs as published
from benchmarks.real_stack import runs as real_stack
from tests.unit.test_real_stack import COMPARISON

PARTS = ("router", "benchmarks/own/runs.py")


@pytest.fixture
def root(tmp_path):
    for name in ("router/a.py", "router/deep/b.yaml", "benchmarks/own/runs.py", "benchmarks/traces/t.xz", "router/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name} = 1")
    return tmp_path


@pytest.mark.parametrize("name", ["router/a.py", "router/deep/b.yaml", "benchmarks/own/runs.py", "benchmarks/traces/t.xz"])
def test_what_decides_is_part_of_it(root, name):
    """One constant changed, anywhere, is another version; written back, it is the same again."""
    before, text = digest.digest(root, PARTS), (root / name).read_text()
    (root / name).write_text(text.replace("1", "2"))
    assert digest.digest(root, PARTS) != before
    (root / name).write_text(text)
    assert digest.digest(root, PARTS) == before


def test_a_new_file_is_another_version_and_prose_is_not(root):
    """Nothing but what decides is read."""
    before = digest.digest(root, PARTS)
    (root / "router/README.md").write_text("more")
    assert digest.digest(root, PARTS) == before
    (root / "router/c.py").write_text("")
    assert digest.digest(root, PARTS) != before


def test_what_is_not_there_cannot_decide(root):
    """A benchmark that names a file which was moved says so, rather than to leave it out."""
    with pytest.raises(FileNotFoundError):
        digest.digest(root, ("benchmarks/own/gone.py",))


@pytest.mark.parametrize("code", [autoscale.code, goodput.code, published.code, real_stack.code])
def test_every_benchmark_that_keeps_results_has_one(code, monkeypatch):
    """Of production's code, the simulation's and its own, as it is now."""
    asked: list[tuple[str, ...]] = []

    def other(*besides: str) -> str:
        asked.append(besides)
        return "other"

    name = code()
    assert name == code()
    monkeypatch.setattr(digest, "code", other)
    assert code() == "other"
    assert asked
    assert any(part.startswith("benchmarks/") for part in asked[0])


def test_kept_results_of_the_real_stack_are_of_one_version(monkeypatch):
    """As those of ``make goodput``: other code, other file."""
    before = real_stack.key(COMPARISON, "baton", [1])
    assert before == real_stack.key(COMPARISON, "baton", [1]) != real_stack.key(COMPARISON, "baton", [2])
    monkeypatch.setattr(digest, "code", lambda *besides: "other")
    assert real_stack.key(COMPARISON, "baton", [1]) != before
