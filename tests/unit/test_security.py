"""What SECURITY.md promises of the code itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.config import BatonConfig

ROOT = Path(__file__).parents[2]
FOLDERS = ("core", "autoscaler", "engine", "kv_transfer", "cluster", "prefill_workers", "decode_workers", "router", "simulation", "deploy")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
RUNS_WHAT_IT_READS = {"recv_pyobj", "recv_serialized", "eval", "exec", "load_module", "unsafe_load", "full_load"}


def uses(path: Path) -> set[str]:
    """What a file imports or calls of the two sets above, and ``torch.load``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & UNPICKLERS
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").split(".")[0]} & UNPICKLERS
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found |= {called.split(".")[-1]} & RUNS_WHAT_IT_READS
            found |= {called} & {"torch.load", "yaml.load", "numpy.load", "np.load"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_is_read_is_run(path: Path) -> None:
    """No file of Baton unpickles, evaluates or loads tensors. (Ray pickles between its own processes, behind its own token.)"""
    assert uses(path) == set()


def test_the_scan_finds_what_it_looks_for(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import pickle\nfrom dill import loads\nsocket.recv_pyobj()\ntorch.load(x)\neval('1')\n")
    assert uses(wrong) == {"pickle", "dill", "recv_pyobj", "torch.load", "eval"}


@pytest.mark.parametrize("name", ["VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_SERVER_DEV_MODE", "VLLM_API_KEY"])
def test_variables_that_open_doors_are_refused(name: str) -> None:
    """With the reason, before anything starts."""
    with pytest.raises(ValidationError, match=f"`{name}` is set by Baton"):
        BatonConfig.model_validate({"model": "m", "engine": {"env": {name: "1"}}})


def test_insecure_serialisation_is_taken_out_of_the_environment_too() -> None:
    """It may have come from the shell that started Ray: wherever vLLM is loaded, it goes first."""
    for file in ("router/front_half.py", "engine/vllm_engine.py"):
        assert 'os.environ.pop("VLLM_ALLOW_INSECURE_SERIALIZATION"' in (ROOT / file).read_text(), file


@pytest.mark.parametrize("spelt", ["api_key", "api-key", "--api-key"])
def test_vllms_own_keys_are_refused(spelt: str) -> None:
    """They would stand in the configuration, and leave every path outside of /v1 open."""
    with pytest.raises(ValidationError, match=r"router\.api_keys"):
        BatonConfig.model_validate({"model": "m", "router": {"server_args": {spelt: "secret"}}})
