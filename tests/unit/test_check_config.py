"""`baton check-config`: every problem of a file with its line and the rule it breaks."""

import pickle
from pathlib import Path

import pytest

from core.errors import ConfigError
from deploy import cli
from deploy.check_config import WrongFileError, check, read

SHIPPED = sorted((Path(__file__).parents[2] / "deploy" / "config").glob("*.yaml"))
GOOD = """\
http_options:
  host: 127.0.0.1
applications:
  - name: baton
    route_prefix: /
    import_path: deploy.app:build
    args:
      model: demo
      engine:
        kind: vllm
        args:
          max_model_len: 4096
      prefill:
        count: 1
"""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_pass(path):
    """Every file in deploy/config is right, for Baton and for Ray Serve's own schema."""
    from ray.serve.schema import ServeDeploySchema

    file = read(path)
    ServeDeploySchema.model_validate(file.raw)
    assert file.application == "baton"


def test_what_a_right_file_says():
    """A file that passed gives its application's name, prefix and address beside its configuration."""
    file = check(GOOD, "f")
    assert (file.application, file.route_prefix, file.http_host, file.http_port) == ("baton", "/", "127.0.0.1", 8000)
    assert file.config.engine.args == {"max_model_len": 4096}


@pytest.mark.parametrize(
    ("old", "new", "line", "rule"),
    [
        ("kind: vllm", "knd: vllm", 10, "engine.knd: unknown key; did you mean `kind`?"),
        ("kind: vllm", "kind: vlm", 10, "has to be 'vllm' or 'simulated', not 'vlm'"),
        ("kind: vllm", "kind: vllm\n        kind: simulated", 11, "given twice, first in line 10"),
        ("kind: vllm", "simulated: {blocks: 1}", 10, "engine.simulated.blocks: unknown key; did you mean `num_blocks`?"),
        ("count: 1", "count: -1", 14, "has to be at least 0, not -1"),
        ("count: 1", "count: 1\n      decode:\n        count: 0", 16, "decode.count: has to be at least 1, not 0"),
        ("count: 1", "count: one", 14, "has to be a valid integer, not 'one'"),
        ("count: 1", "enforce_eager: true", 14, "prefill.enforce_eager: unknown key; known here: count"),
        ("count: 1", "count: 1\n        policy: random", 15, "belongs in args as `router.policy`"),
        ("prefill:\n        count: 1", "prefill: 1", 13, "has to be a mapping"),
        ("model: demo", "served_model_name: x", 7, "args.model: is missing: A model directory"),
        ("kind: vllm", "step_times: h100", 10, "engine.step_times: no step times are called 'h100'; known: a100-"),
        ("count: 1", "step_times: 8b", 14, "prefill.step_times: no step times are called '8b'; known: a100-"),
        ("max_model_len", "max-model-length", 12, "did you mean `max_model_len`?"),
        ("max_model_len: 4096", "kv-transfer-config: {}", 12, "set by Baton: it is made from `kv_transfer`"),
        ("max_model_len: 4096", "chat_template: x", 12, "move it to `router.server_args`"),
        ("max_model_len: 4096", "no-enable-prefix-caching: true", 12, "write `enable_prefix_caching: false`"),
        ("deploy.app:build", "deploy.app.build", 6, "import_path: has to be `deploy.app:build`, not `deploy.app.build`"),
        ("    import_path: deploy.app:build\n", "", 4, "import_path: has to be `deploy.app:build`; it is missing"),
        ("host: 127.0.0.1", "prot: 1", 2, "http_options.prot: unknown key; did you mean `port`?"),
        ("host: 127.0.0.1", "port: eighty", 2, "has to be a valid integer, not 'eighty'"),
        ("http_options:", "http_option:", 1, "did you mean `http_options`?"),
        ("applications:", "application:", 1, "applications: has to be a list"),
        ("route_prefix: /", "route_prefix: baton", 5, "route_prefix: has to be a path that starts with `/`"),
        ("route_prefix: /", "route_prefix: [", 7, "not YAML"),
        ("        count: 1", "\tcount: 1", 14, "a tab; indent with spaces"),
        (GOOD, "", 1, "is a mapping with `applications`"),
        (GOOD, "- a\n- b\n", 1, "is a mapping with `applications`"),
        (GOOD, 'a: "\x07"\n', 1, "not YAML"),
    ],
)
def test_wrong_files(old, new, line, rule):
    """The message starts with file and line, and says the rule."""
    assert old in GOOD
    with pytest.raises(WrongFileError) as caught:
        check(GOOD.replace(old, new, 1), "my.yaml")
    assert any(said.startswith(f"my.yaml:{line}: ") and rule in said for said in str(caught.value).splitlines()), str(caught.value)


def test_nobody_need_compute_prompts_for_others(tmp_path, capsys):
    """Then it does not matter what such workers would be; a scaler that may start them is another thing."""
    nobody = "count: 0\n      decode: {count: 2, num_gpus: 1}"
    path = tmp_path / "my.yaml"
    path.write_text(GOOD.replace("count: 1", nobody))
    assert cli.main(["check-config", str(path)]) == 0
    out = capsys.readouterr().out
    assert "no workers: those of decode compute their prompts themselves" in out
    assert "3 CPUs, 2 GPUs" in out
    scaled = nobody + "\n      objectives: {ttft_s: 1, tpot_s: 1}\n      autoscaling: {enabled: true, prefill: {min: 0}}"
    with pytest.raises(WrongFileError, match="computed on the CPU cannot be used on a GPU"):
        check(GOOD.replace("count: 1", scaled), "f")


def test_all_problems_at_once():
    """One run names every problem, in the order of the file."""
    text = (
        GOOD.replace("kind: vllm", "kind: x").replace("count: 1", "count: x").replace("host:", "hots:").replace("deploy.app:build", "a:b")
    )
    with pytest.raises(WrongFileError) as caught:
        check(text, "f")
    assert [problem.line for problem in caught.value.problems] == [2, 6, 10, 14]
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_a_file_may_hold_other_applications():
    """The Baton application is found by its import path, wherever it stands; the others are Ray Serve's business."""
    other = "applications:\n  - {name: other, route_prefix: /other, import_path: 'x:y', args: {anything: 1}}\n"
    assert check(GOOD.replace("applications:\n", other), "f").application == "baton"


def test_merge_keys_are_followed():
    """A value that comes in by `<<` is found in the line where it is written."""
    text = GOOD.replace("http_options:", "x-pool: &pool\n  count: -1\nhttp_options:").replace("        count: 1", "        <<: *pool")
    with pytest.raises(WrongFileError) as caught:
        check(text, "f")
    assert caught.value.problems == [(2, "applications[0].args.prefill.count", "has to be at least 0, not -1")]


def test_the_command(tmp_path, capsys):
    """Status 0 and a summary for a right file; 1 and the problems on stderr for a wrong, absent or binary one."""
    path = tmp_path / "my.yaml"
    path.write_text(GOOD)
    assert cli.main(["check-config", str(path)]) == 0
    assert "1 worker, on the CPU" in capsys.readouterr().out
    path.write_text(GOOD.replace("vllm", "vlm"))
    assert cli.main(["check-config", str(path)]) == 1
    assert f"{path}:10: " in capsys.readouterr().err
    path.write_bytes(b"\xff\xfe")
    assert cli.main(["check-config", str(path)]) == 1
    assert cli.main(["check-config", str(tmp_path / "none.yaml")]) == 1


def test_an_unreadable_file_is_a_config_error(tmp_path):
    """What cannot be read is said with its path."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)
