"""Which files may import which framework; import-linter keeps whole folders apart, this keeps single files."""

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("core", "autoscaler", "engine", "kv_transfer", "cluster", "prefill_workers", "decode_workers", "router", "simulation", "deploy")

FENCES = {
    # Ray starts, finds and stops processes; what they do must run without it.
    "ray": (
        "*/actor.py",
        "*_actor.py",
        "*/controller.py",
        "*/placement.py",
        "cluster/board.py",
        "cluster/ray_metrics.py",
        "*/ingress.py",
        "deploy/*.py",
    ),
    # vLLM moves its insides from release to release: few files, each with a contract test.
    "vllm": ("engine/vllm*.py", "engine/sim*.py", "router/*.py", "kv_transfer/connector*.py", "deploy/*.py"),
    "nixl": ("kv_transfer/*.py",),
    # What is counted does not know it; only what shows it does, and what vLLM shows by itself.
    "prometheus_client": (
        "core/metrics/exposition.py",
        "cluster/signals/scrape.py",
        "cluster/metrics_listener.py",
        "router/ingress.py",
        "engine/*_metrics.py",
    ),
    # Spans are data to everybody else.
    "opentelemetry": ("cluster/otlp.py",),
    # Sockets are the channel's business (who owns the links makes its context), the simulated link's, and vLLM's event publisher's.
    "zmq": ("cluster/channel.py", "router/members.py", "engine/sim*.py", "engine/vllm*.py"),
}


def imported(path: Path) -> set[str]:
    """Top-level packages a file imports when it runs; what it imports for type checkers alone does not count."""

    def walk(node: ast.AST) -> set[str]:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return set().union(*map(walk, node.orelse)) if node.orelse else set()
        if isinstance(node, ast.Import):
            return {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            return {(node.module or "").split(".")[0]}
        return set().union(*map(walk, ast.iter_child_nodes(node)))

    return walk(ast.parse(path.read_text()))


@pytest.mark.parametrize("framework", FENCES)
def test_frameworks_stay_in_their_files(framework):
    """A framework is imported in the files that are its shell, and nowhere else."""
    files = (path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    users = {file for file in files if framework in imported(ROOT / file)}
    assert {file for file in users if not any(fnmatch(file, allowed) for allowed in FENCES[framework])} == set()
