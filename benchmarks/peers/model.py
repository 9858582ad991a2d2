"""A model directory for servers whose engines are simulated: the demo model's tokenizer, for any length, without weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from deploy.demo_model import ensure_demo_model


def tokenizer_only(directory: Path, max_model_len: int) -> Path:
    """Writes it, over what is there."""
    directory.mkdir(parents=True, exist_ok=True)
    demo = ensure_demo_model()
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo / name, directory / name)
    config = json.loads((demo / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "max_position_embeddings": max_model_len}))
    return directory
