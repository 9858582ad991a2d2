"""LoRA adapters for the demo model, made in a moment: random, seeded, in PEFT's layout, and strong enough that answers differ.

python -m deploy.demo_adapter FOLDER NAME [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from deploy.demo_model import CONFIG

MODULES = ("q_proj", "v_proj", "o_proj", "down_proj")
"""Of attention and beyond it: what is cached of a prompt differs, and what is made of that."""


def make_adapter(directory: Path, seed: int, rank: int = 8, strength: float = 0.6) -> Path:
    """Writes ``directory`` with an adapter of the demo model in it; another ``seed``, another adapter."""
    import torch
    from safetensors.torch import save_file

    hidden, inner, head = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["head_dim"]
    queries, keys = CONFIG["num_attention_heads"] * head, CONFIG["num_key_value_heads"] * head
    shapes = {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.down_proj": (inner, hidden),
    }
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Any] = {}
    for layer in range(CONFIG["num_hidden_layers"]):
        for name, (given, made) in shapes.items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{module}.lora_A.weight"] = torch.randn(rank, given, generator=generator) / given**0.5
            weights[f"{module}.lora_B.weight"] = torch.randn(made, rank, generator=generator) * strength
    directory.mkdir(parents=True)
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(MODULES), "bias": "none", "task_type": "CAUSAL_LM"}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.demo_adapter", description="Makes LoRA adapters for the demo model.")
    parser.add_argument("folder", type=Path, help="where each gets a folder of its name")
    parser.add_argument("names", nargs="+", metavar="name")
    asked = parser.parse_args()
    for seed, name in enumerate(asked.names):
        sys.stdout.write(f"{make_adapter(asked.folder / name, seed)}\n")


if __name__ == "__main__":
    main()
