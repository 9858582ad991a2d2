"""Reading models from ``config.json``, and what they are then made of."""

import json

import pytest

from core.errors import ConfigError
from engine.performance.models import MODEL_SHAPES
from engine.performance.roofline.config_json import model_of
from engine.performance.roofline.find_model import find_model, shipped_models
from engine.performance.roofline.layout import Layout
from engine.performance.roofline.memory import kv_bytes_per_token, weight_bytes
from engine.performance.roofline.model import Experts, GroupedAttention, LatentAttention, Mlp
from engine.performance.roofline.precision import Precision
from engine.performance.roofline.quantization import precision_of
from engine.performance.roofline.setup import Setup

SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 1000,
}
BILLIONS = {
    "llama-3.1-8b": 8.03,
    "llama-3.1-70b": 70.6,
    "llama-3.1-405b": 405.9,
    "llama-2-7b": 6.74,
    "qwen3-32b": 32.8,
    "qwen3-30b-a3b": 30.5,
    "qwen3-235b-a22b": 235.1,
    "mixtral-8x7b": 46.7,
    "gpt-oss-120b": 116.8,
    "opt-13b": 12.9,
    "opt-66b": 65.7,
    "bloom-176b": 176.2,
    "deepseek-v3": 671.0,
    "kimi-k2.5": 1026.0,
    "minimax-m2.5": 228.7,
}


def written(tmp_path, values, name="config.json"):
    path = tmp_path / name
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(("name", "billions"), BILLIONS.items())
def test_parameters_of_known_models(name, billions):
    """Weights add up to what the model's publishers say it has, to one percent: norms and biases are not counted."""
    assert weight_bytes(Setup(find_model(name), Layout(), Precision())) / 2e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize("name", sorted(MODEL_SHAPES.keys() & set(shipped_models())))
def test_kv_of_known_models(name):
    """A token's KV is as large as the tables of measured models say."""
    assert kv_bytes_per_token(Setup(find_model(name), Layout())) == MODEL_SHAPES[name].kv_bytes_per_token


def test_latent_kv():
    """DeepSeek-V3 keeps 576 values per token and layer, however many heads there are."""
    assert kv_bytes_per_token(Setup(find_model("deepseek-v3"), Layout())) == 61 * 576 * 2


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"])
def test_missing_key_is_named(tmp_path, key):
    """The message names the file and the key that is missing."""
    path = written(tmp_path, {name: value for name, value in SMALL.items() if name != key})
    with pytest.raises(ConfigError, match=f"config.json: {key}: is missing"):
        find_model(str(path))


@pytest.mark.parametrize(("key", "value"), [("hidden_size", 0), ("num_hidden_layers", "4"), ("vocab_size", True)])
def test_wrong_value_is_named(key, value):
    """A size is a whole number above 0."""
    with pytest.raises(ConfigError, match=f"{key}: must be a whole number above 0"):
        model_of({**SMALL, key: value})


@pytest.mark.parametrize("key", ["mamba_d_state", "linear_num_value_heads", "index_topk", "attention_chunk_size"])
def test_what_is_not_described_is_refused(key):
    """A model with other kinds of layers is not taken for one that has none."""
    with pytest.raises(ConfigError, match=f"{key}: says that the model has"):
        model_of({**SMALL, key: 64})


def test_other_names_of_keys():
    """GPT-2, BLOOM and OPT call the same things differently, and have two matrices where Llama has three."""
    model = model_of({"model_type": "opt", "n_embd": 64, "n_layer": 4, "n_head": 8, "ffn_dim": 256, "vocab_size": 1000})
    assert model.layers[0].attention == GroupedAttention(8, 8, 8)
    assert model.layers[0].mlp == Mlp(256, is_gated=False)


def test_language_part_of_a_larger_model():
    """Of a model that also sees, ``text_config`` counts."""
    assert model_of({"model_type": "llava", "vision_config": {}, "text_config": SMALL}) == model_of(SMALL)


def test_dense_layers_before_experts():
    """DeepSeek-V3's first three layers have no experts; all have latent attention."""
    groups = find_model("deepseek-v3").layers
    assert {type(group.mlp): group.count for group in groups} == {Mlp: 3, Experts: 58}
    assert {type(group.attention) for group in groups} == {LatentAttention}


WINDOWS = [
    ({"sliding_window": 16}, {16: 4}),
    ({"sliding_window": None}, {None: 4}),
    ({"sliding_window": 16, "use_sliding_window": False}, {None: 4}),
    ({"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 3}, {None: 3, 16: 1}),
    ({"sliding_window": 16, "sliding_window_pattern": 2}, {None: 2, 16: 2}),
    ({"sliding_window": 16, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}, {None: 1, 16: 3}),
]


@pytest.mark.parametrize(("keys", "layers"), WINDOWS)
def test_windows(keys, layers):
    """Which layers have a window is said in one of four ways."""
    found = {}
    for group in model_of({**SMALL, **keys}).layers:
        assert isinstance(group.attention, GroupedAttention)
        found[group.attention.window] = group.count
    assert found == layers


def test_unknown_kind_of_attention():
    """A kind of layer that is not known is refused, and so is a list for another number of layers."""
    for types in (["linear_attention"] * 4, ["full_attention"] * 3):
        with pytest.raises(ConfigError, match="layer_types: must name sliding_attention or full_attention for each of 4 layers"):
            model_of({**SMALL, "sliding_window": 16, "layer_types": types})


QUANTISED = [
    (None, Precision()),
    ({"quant_method": "fp8"}, Precision(8, 8)),
    ({"quant_method": "awq", "bits": 4}, Precision(4)),
    ({"quant_method": "gptq", "bits": 8}, Precision(8)),
    ({"quant_method": "mxfp4"}, Precision(expert_bits=4)),
    ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, Precision(8, 8, 8)),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, Precision(4, 4)),
    (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["model.layers.0.self_attn*"]},
        Precision(expert_bits=4, expert_activation_bits=4),
    ),
    (
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}, "input_activations": None}}},
        Precision(4),
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 8}, "input_activations": {"num_bits": 8}}},
            "kv_cache_scheme": {"num_bits": 8},
        },
        Precision(8, 8, 8),
    ),
]


@pytest.mark.parametrize(("config", "precision"), QUANTISED)
def test_quantisation(config, precision):
    """What each method says of weights, activations, KV and experts."""
    assert precision_of(config) == precision


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "magic"},
        {"quant_method": "awq", "bits": 3},
        {"quant_method": "modelopt", "quant_algo": "FP2"},
        {"quant_method": "compressed-tensors"},
    ],
)
def test_unknown_quantisation(config):
    """It is named rather than taken for 16 bits."""
    with pytest.raises(ConfigError, match="quantization_config"):
        precision_of(config)


def test_short_precision():
    """``w4a16kv8``, and experts apart; anything else is answered with the form."""
    assert Precision.of("w4a16kv8") == Precision(4, 16, 8)
    assert Precision.of("w16a16kv8e4a8") == Precision(16, 16, 8, 4, 8)
    with pytest.raises(ConfigError, match="w8a8kv16"):
        Precision.of("fp8")


@pytest.mark.parametrize(("tokens", "touched"), [(1, 8.0), (32, 163.0), (10_000, 256.0)])
def test_experts_touched(tokens, touched):
    """One token needs its eight; 32 need 163 of 256; thousands need all."""
    assert Experts(256, 8, 2048).touched(tokens) == pytest.approx(touched, abs=1.0)


def test_found_in_a_folder_a_file_and_the_cache(tmp_path, monkeypatch):
    """A folder, a file, and a name in the local cache, where ``main`` goes before others; nothing is fetched."""
    written(tmp_path, SMALL)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for revision, layers in (("old", 1), ("main-one", 4), ("new", 2)):
        snapshot = tmp_path / "hub" / "models--org--small" / "snapshots" / revision
        snapshot.mkdir(parents=True)
        written(snapshot, {**SMALL, "num_hidden_layers": layers})
    refs = tmp_path / "hub" / "models--org--small" / "refs"
    refs.mkdir()
    (refs / "main").write_text("main-one")
    assert find_model(str(tmp_path)) == find_model(str(tmp_path / "config.json")) == find_model("org/small") == model_of(SMALL)


def test_not_found(tmp_path, monkeypatch):
    """The message says where was looked, what comes with Baton, in any letters, and how a configuration comes into the cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"'org/none' is no folder .*llama-3.1-8b.*`hf download org/none config.json`"):
        find_model("org/none")
    with pytest.raises(ConfigError, match=r"`hf download REPO config.json`"):
        find_model("none")
    assert find_model("Llama-3.1-8B") == find_model("llama-3.1-8b")


def test_quantisation_in_a_file_of_its_own(tmp_path):
    """NVIDIA's quantised models have ``hf_quant_config.json`` beside."""
    written(tmp_path, SMALL)
    written(tmp_path, {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}, "hf_quant_config.json")
    assert find_model(str(tmp_path)).precision == Precision(8, 8, 8)


@pytest.mark.parametrize(
    ("keys", "longest"),
    [
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 131_072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131_072),
        (
            {
                "max_position_embeddings": 40_960,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768},
            },
            131_072,
        ),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, 8192),
        ({"max_position_embeddings": 8192, "seq_length": 2048}, 2048),
    ],
)
def test_the_longest_request(keys, longest):
    """As vLLM derives it."""
    assert model_of({**SMALL, **keys}).longest_tokens == longest
