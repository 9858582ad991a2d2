"""vLLM's own benchmark client runs against Baton as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.demo_model import ensure_demo_model
from tests.support.baton_process import MODEL, BatonServer

pytestmark = pytest.mark.e2e

BENCH = """
import json, sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
for arguments in json.load(sys.stdin):
    main(parser.parse_args(arguments))
"""
"""What ``vllm bench serve`` does, again and again; the ``vllm`` command itself does not start with the CPU wheel."""
EASY = ["--ignore-eos", "--goodput", "ttft:60000", "tpot:60000"]
"""Objectives that are met."""
Json = dict[str, Any]


@pytest.fixture(scope="module")
def results(baton: BatonServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """The result files of random prompts and of conversations in ShareGPT's form, over either endpoint. Importing vLLM takes longest."""
    folder = tmp_path_factory.mktemp("bench")
    data = conversations(folder / "sharegpt.json", 16)
    runs = {
        "random": ["--backend", "openai", "--dataset-name", "random", "--random-input-len", "200", "--random-output-len", "8"],
        "sharegpt": ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--dataset-name", "sharegpt"],
    }
    runs["random"] += ["--num-prompts", "24"]
    runs["sharegpt"] += ["--dataset-path", str(data), "--sharegpt-output-len", "6", "--num-prompts", "16"]
    everybody = ["--base-url", baton.url, "--model", MODEL, "--tokenizer", str(ensure_demo_model()), "--max-concurrency", "8"]
    everybody += ["--save-result", "--result-dir", str(folder), "--disable-tqdm", *EASY]
    told = json.dumps([[*everybody, "--result-filename", f"{name}.json", *run] for name, run in runs.items()])
    done = subprocess.run([sys.executable, "-c", BENCH], input=told, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in runs}


def conversations(path: Path, count: int) -> Path:
    """A file of so many."""
    question = "Tell me how a relay race is run, and who holds the baton when. "
    chats = [
        {"id": str(number), "conversations": [{"from": "human", "value": f"{number}. {question * 3}"}, {"from": "gpt", "value": question}]}
        for number in range(count)
    ]
    path.write_text(json.dumps(chats))
    return path


@pytest.mark.parametrize(("kind", "requests", "tokens"), [("random", 24, 8), ("sharegpt", 16, 6)])
def test_all_requests_are_completed(results: dict[str, Json], kind: str, requests: int, tokens: int) -> None:
    """To the last token, and goodput is counted for objectives that are easily met."""
    result = results[kind]
    assert (result["completed"], result["failed"]) == (requests, 0)
    assert result["total_output_tokens"] == requests * tokens
    assert result["request_goodput"] == pytest.approx(result["request_throughput"])
