"""One measured run with vLLM's own benchmark client, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy.demo_model import ensure_demo_model

_CLIENT = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@dataclass(frozen=True)
class Run:
    """What one run measured; times in milliseconds, medians over its requests."""

    ttft_ms: float
    tpot_ms: float
    tokens_per_s: float
    completed: int


def run(url: str, *, concurrency: int, requests: int, input_tokens: int, output_tokens: int, seed: int) -> Run:
    """Random prompts, the same for the same seed; a new request whenever one ends. Raises RuntimeError when any failed."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", _CLIENT, "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions"]
        command += ["--model", "demo", "--tokenizer", str(ensure_demo_model()), "--dataset-name", "random", "--ignore-eos"]
        command += ["--random-input-len", str(input_tokens), "--random-output-len", str(output_tokens), "--num-prompts", str(requests)]
        command += ["--max-concurrency", str(concurrency), "--seed", str(seed), "--num-warmups", str(min(4, concurrency)), "--disable-tqdm"]
        command += ["--save-result", "--result-dir", directory, "--result-filename", "result.json", "--percentile-metrics", "ttft,tpot"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode != 0:
            raise RuntimeError(f"the benchmark client failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        result = json.loads((Path(directory) / "result.json").read_text())
    if result["completed"] != requests:
        raise RuntimeError(f"{requests - result['completed']} of {requests} requests failed: {result.get('errors')}")
    return Run(result["median_ttft_ms"], result["median_tpot_ms"], result["output_throughput"], result["completed"])
