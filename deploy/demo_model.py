"""A small Llama with random weights and a tokenizer of its own, made here in seconds: what Baton serves with nothing downloaded.

It speaks no language, but everything about it is real: a byte-level BPE tokenizer trained on the documentation that comes
with Python, a chat template with tools, grouped-query attention, safetensors. Seeded, so every machine gets the same file.

Serve it as float32. Random logits lie close together: rounded to bfloat16, one in fifty greedy steps is a near tie, which another
batch size or another split of the prompt decides differently; in float32 none in thousands is, and answers can be compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

SEED = 20
VOCAB_SIZE = 4096
CONFIG: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,  # tied to its own embeddings, a random model repeats its last token for ever
    "rms_norm_eps": 1e-5,
}
# Chosen by trying: layers strong enough that a change anywhere in a prompt changes the answer, and that it does not run in circles.
LAYER_STD = 0.15
HEAD_STD = 0.25

EOS = "<|im_end|>"
SPECIAL_TOKENS = ["<s>", "</s>", "<|im_start|>", EOS]
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}
{{- '<|im_start|>system\\nYou may call these tools. To call one, answer with its name and arguments as JSON.\\n' }}
{%- for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- elif message['content'] %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}
{%- endif %}
{%- if message['tool_calls'] %}
{%- for call in message['tool_calls'] %}
{{- {'name': call['function']['name'], 'arguments': call['function']['arguments']} | tojson }}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def version() -> str:
    """Changes whenever the model would: the cache never serves an old one."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def cached_path() -> Path:
    """Where ``ensure_demo_model`` keeps it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "baton" / f"demo-model-{version()}"


def ensure_demo_model(out: Path | None = None) -> Path:
    """The model's directory, built first if it is not there yet: about five seconds. Several processes may ask at once."""
    path = out or cached_path()
    if (path / "config.json").exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        build(workshop)
        workshop.chmod(0o755)  # mkdtemp's is private; other users' workers may read it
        try:
            workshop.rename(path)
        except OSError:
            if not (path / "config.json").exists():  # else another process was first; its model is the same
                raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return path


def build(directory: Path) -> None:
    """Writes all files of the model into ``directory``, which exists."""
    tokenizer = _train_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    names = {"bos_token": "<s>", "eos_token": EOS, "pad_token": "</s>"}
    _write(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **names,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONFIG["max_position_embeddings"],
            "chat_template": CHAT_TEMPLATE,
        },
    )
    special = {"bos_token_id": ids["<s>"], "eos_token_id": ids[EOS], "pad_token_id": ids["</s>"]}
    _write(directory / "generation_config.json", special)
    _save_weights(directory, _unspoken(tokenizer))
    # Last: its presence is what says that a directory is complete.
    _write(
        directory / "config.json",
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "dtype": "float32", **CONFIG, **special},
    )


def _train_tokenizer() -> Any:
    from pydoc_data.topics import topics  # 700 kB of English and Python that every CPython has

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # every text can be written, whatever it is
        show_progress=False,
    )
    tokenizer.train_from_iterator((topics[name] for name in sorted(topics)), trainer)
    return tokenizer


def _unspoken(tokenizer: Any) -> list[int]:
    """Ids that the model reads but does not write by itself: marks of the template, half characters, rulers and indentation."""

    def speakable(text: str) -> bool:
        word = len(text.strip()) in {1, 2} or any(character.isalnum() for character in text)
        return text == EOS or (word and text.isascii() and text.isprintable() and text not in SPECIAL_TOKENS)

    return [token for token in range(VOCAB_SIZE) if not speakable(tokenizer.decode([token], skip_special_tokens=False))]


def _save_weights(directory: Path, unspoken: list[int]) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED)

    def normal(rows: int, columns: int, std: float) -> Any:
        # Rounded to bfloat16: the same weights then, whichever of the two an engine is told to use.
        return (torch.randn(rows, columns, generator=generator) * std).to(torch.bfloat16).float()

    hidden, inner, head = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["head_dim"]
    heads, kv_heads = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
    ones = torch.ones(hidden)
    weights = {"model.embed_tokens.weight": normal(VOCAB_SIZE, hidden, 1.0)}
    for layer in range(CONFIG["num_hidden_layers"]):
        shapes = {
            "self_attn.q_proj": (heads * head, hidden),
            "self_attn.k_proj": (kv_heads * head, hidden),
            "self_attn.v_proj": (kv_heads * head, hidden),
            "self_attn.o_proj": (hidden, heads * head),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        for name, (rows, columns) in shapes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = normal(rows, columns, LAYER_STD)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = ones.clone()
    weights["model.norm.weight"] = ones.clone()
    weights["lm_head.weight"] = normal(VOCAB_SIZE, hidden, HEAD_STD)
    weights["lm_head.weight"][unspoken] = 0.0
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)  # safetensors makes it private


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
