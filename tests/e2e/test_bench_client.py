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
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""What ``vllm bench serve`` does; the ``vllm`` command itself does not start with the CPU wheel."""


def bench(baton: BatonServer, folder: Path, *arguments: str) -> dict[str, Any]:
    """Runs the client; its result file."""
    command = [sys.executable, "-c", BENCH, "--base-url", baton.url, "--model", MODEL, "--tokenizer", str(ensure_demo_model())]
    command += ["--save-result", "--result-dir", str(folder), "--result-filename", "result.json", "--disable-tqdm"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_random_prompts(baton: BatonServer, tmp_path: Path) -> None:
    """All requests are completed, and goodput is counted for objectives that are easily met."""
    arguments = ["--backend", "openai", "--dataset-name", "random", "--random-input-len", "200", "--random-output-len", "8"]
    arguments += ["--num-prompts", "24", "--max-concurrency", "8", "--ignore-eos", "--goodput", "ttft:60000", "tpot:60000"]
    result = bench(baton, tmp_path, *arguments)
    assert (result["completed"], result["failed"]) == (24, 0)
    assert result["total_output_tokens"] == 24 * 8
    assert result["request_goodput"] == pytest.approx(result["request_throughput"])


def test_sharegpt_chats(baton: BatonServer, tmp_path: Path) -> None:
    """Conversations in ShareGPT's form, over the chat endpoint."""
    question = "Tell me how a relay race is run, and who holds the baton when. "
    chats = [
        {"id": str(number), "conversations": [{"from": "human", "value": f"{number}. {question * 3}"}, {"from": "gpt", "value": question}]}
        for number in range(16)
    ]
    data = tmp_path / "sharegpt.json"
    data.write_text(json.dumps(chats))
    arguments = [
        "--backend",
        "openai-chat",
        "--endpoint",
        "/v1/chat/completions",
        "--dataset-name",
        "sharegpt",
        "--dataset-path",
        str(data),
    ]
    arguments += ["--sharegpt-output-len", "6", "--num-prompts", "16", "--max-concurrency", "8", "--ignore-eos"]
    result = bench(baton, tmp_path, *arguments, "--goodput", "ttft:60000", "tpot:60000")
    assert (result["completed"], result["failed"]) == (16, 0)
    assert result["total_output_tokens"] == 16 * 6
