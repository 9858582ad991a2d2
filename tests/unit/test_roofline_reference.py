"""The roofline with all corrections off is LLM-Viewer, number for number; each correction by itself changes what it says and no more."""

import json
from pathlib import Path

import msgspec
import pytest

from engine.performance.roofline.find_model import find_model
from engine.performance.roofline.hardware import find_hardware
from engine.performance.roofline.layout import Layout
from engine.performance.roofline.memory import activation_bytes, kv_bytes_per_sequence, weight_bytes
from engine.performance.roofline.operators import exchanges, operators
from engine.performance.roofline.precision import Precision
from engine.performance.roofline.roofline import Roofline
from engine.performance.roofline.rules import CORRECTED, REFERENCE, Rules
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Chunk, Step

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "llm_viewer" / "vectors.json").read_text())
CLOSE = 1e-3
TOKENS = 2048
PREFILL = Step((Chunk(TOKENS),))
DECODE = Step(batch=1, context_tokens=TOKENS)


def reference(model, hardware, bits=(16, 16, 16)):
    """As the tool has it: all weights in as many bits, and 8-bit operations where everything has 8."""
    weight, activation, kv = bits
    precision = Precision(weight, activation, kv, head_bits=weight, attention_bits=max(activation, kv))
    figures = VECTORS["hardware"][hardware]
    flops = {int(width): value for width, value in figures["flops_by_bits"].items()}
    its = msgspec.structs.replace(find_hardware(hardware), memory_bytes_per_s=figures["memory_bytes_per_s"], flops_by_bits=flops)
    return Roofline(Setup(find_model(model), Layout(), precision, REFERENCE), its)


def both(batch, tokens):
    return {"prefill": Step((Chunk(tokens, 0, batch),)), "decode": Step((), batch, batch * tokens)}


def named(ops):
    return {op.name: op for op in ops}


def changed(model, layout=None, precision=None, step=PREFILL, **rules):
    """Operators in reference mode, and with these corrections on: (before, after), by name."""
    layout = layout or Layout()
    before, after = Setup(find_model(model), layout, precision, REFERENCE), Setup(find_model(model), layout, precision, Rules(**rules))
    return named(operators(before, step)), named(operators(after, step))


def differing(before, after):
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: f"{case['model']}-b{case['batch']}-{case['tokens']}-{case['bits']}")
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_seconds_are_the_tools(case, phase):
    """Every published time of the tool comes out, to a thousandth."""
    roofline = reference(case["model"], case["hardware"], case["bits"])
    assert roofline.step_s(both(case["batch"], case["tokens"])[phase]) * 1e3 == pytest.approx(case[f"{phase}_ms"], rel=CLOSE)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_operators_are_the_tools(phase):
    """Operations, bytes, and the seconds of single operators are the tool's."""
    detail = VECTORS["in_detail"]
    roofline = reference(detail["model"], detail["hardware"])
    ops = operators(roofline.setup, both(detail["batch"], detail["tokens"])[phase])
    assert sum(op.count * op.flops for op in ops) == pytest.approx(detail[phase]["flops"], rel=CLOSE)
    assert sum(op.count * op.bytes for op in ops) == pytest.approx(detail[phase]["bytes"], rel=CLOSE)
    seconds = {name: roofline.op_s(op) * 1e6 for name, op in named(ops).items()}
    assert {name: seconds[name] for name in detail[phase]["operators_us"]} == pytest.approx(detail[phase]["operators_us"], rel=CLOSE)


def test_memory_is_the_tools():
    """Weights of the layers, KV, and with what one layer writes the peak of either phase."""
    detail = VECTORS["in_detail"]
    setup = reference(detail["model"], detail["hardware"]).setup
    weights, kv = weight_bytes(setup), kv_bytes_per_sequence(setup, detail["tokens"])
    assert weights == pytest.approx(detail["weight_bytes"], rel=CLOSE)
    assert kv == pytest.approx(detail["kv_bytes"], rel=CLOSE)
    for phase, step in both(detail["batch"], detail["tokens"]).items():
        assert weights + kv + activation_bytes(setup, step) == pytest.approx(detail[phase]["peak_bytes"], rel=CLOSE)


def test_lm_head():
    """The head multiplies and adds, and reads and writes for every sequence."""
    before, after = changed("llama-2-7b", step=Step(batch=4, context_tokens=4000), lm_head=True)
    assert differing(before, after) == {"lm_head"}
    assert after["lm_head"].flops == 2 * before["lm_head"].flops
    assert after["lm_head"].load_bytes == 4 * before["lm_head"].load_bytes
    assert after["lm_head"].store_bytes == 4 * before["lm_head"].store_bytes


def test_query_heads():
    """Prefill reads as many queries as there are heads: four times as many in Llama-3.1-8B."""
    before, after = changed("llama-3.1-8b", query_heads=True)
    assert differing(before, after) == {"qk_matmul"}
    assert after["qk_matmul"].load_bytes == 4 * before["qk_matmul"].load_bytes
    before, after = changed("llama-3.1-8b", step=DECODE, query_heads=True)
    assert not differing(before, after)


def test_causal():
    """Half of all pairs, and half of the diagonal's other half; scores that are not computed are not written either."""
    before, after = changed("llama-2-7b", causal=True)
    assert differing(before, after) == {"qk_matmul", "sv_matmul", "softmax"}
    for name in ("qk_matmul", "sv_matmul", "softmax"):
        assert after[name].flops / before[name].flops == pytest.approx((TOKENS + 1) / (2 * TOKENS))
    assert not differing(*changed("llama-2-7b", step=DECODE, causal=True))


def test_activation_width():
    """The activation works on the intermediate size."""
    before, after = changed("llama-2-7b", activation_width=True)
    assert differing(before, after) == {"mlp_act"}
    assert after["mlp_act"].flops / before["mlp_act"].flops == pytest.approx(11008 / 4096)
    assert after["mlp_act"].bytes / before["mlp_act"].bytes == pytest.approx(11008 / 4096)


def test_parallel():
    """Two GPUs share attention and head, not linear layers alone."""
    before, after = changed("llama-2-7b", Layout(tp=2), parallel=True)
    assert differing(before, after) == {"qk_matmul", "sv_matmul", "softmax", "lm_head"}
    assert all(after[name].flops == before[name].flops / 2 for name in differing(before, after))


def test_exchanges():
    """Two sums per layer, that of the embedding, and the logits; one GPU passes nothing on."""
    model, step = find_model("llama-2-7b"), DECODE
    assert exchanges(Setup(model, Layout(tp=2), None, REFERENCE), step) == []
    assert exchanges(Setup(model, Layout(), None, Rules(exchanges=True)), step) == []
    found = {each.name: each for each in exchanges(Setup(model, Layout(tp=2), None, Rules(exchanges=True)), step)}
    assert {name: each.count for name, each in found.items()} == {"attention_sum": 32, "mlp_sum": 32, "embedding_sum": 1, "logits": 1}
    assert found["mlp_sum"].wire_bytes == 2 * (1 / 2) * 4096 * 2


def test_experts():
    """A tool that knows no experts sees an MLP of ``intermediate_size``; with them, one token reads two of eight."""
    before, after = changed("mixtral-8x7b", step=DECODE, experts=True)
    assert {"gate_proj", "up_proj", "down_proj"} <= before.keys()
    assert after["experts_down"].weight_bytes == pytest.approx(2 * before["down_proj"].weight_bytes)
    assert after["router"].flops == 2 * 4096 * 8


def test_latent():
    """A tool that knows no latent attention keeps keys and values of the hidden size: 25 times as much."""
    before, after = changed("deepseek-v3", step=DECODE, latent=True)
    assert {"q_proj", "k_proj", "v_proj"} <= before.keys()
    assert {"q_a_proj", "kv_a_proj", "k_absorb", "v_absorb"} <= after.keys()
    kept = before["k_proj"].kv_store_bytes + before["v_proj"].kv_store_bytes
    assert kept / after["kv_a_proj"].kv_store_bytes == pytest.approx(2 * 7168 / 576)


def test_head_size():
    """Qwen3-32B has 64 heads of 128 on 5,120, not of 80."""
    before, after = changed("qwen3-32b", head_size=True)
    assert after["q_proj"].flops / before["q_proj"].flops == 128 / 80


def test_window():
    """Mistral attends to 4,096 tokens and no more."""
    step = Step(batch=1, context_tokens=16384)
    before, after = changed("mistral-7b-v0.1", step=step, window=True)
    assert differing(before, after) == {"qk_matmul", "sv_matmul", "softmax"}
    assert after["qk_matmul"].flops == before["qk_matmul"].flops / 4


def test_rope():
    """One operator more, on queries and keys."""
    before, after = changed("llama-3.1-8b", rope=True)
    assert differing(before, after) == {"rope"}
    assert after["rope"].load_bytes == TOKENS * (4096 + 1024) * 2


def test_embedding():
    """One operator more, once a step, and the table in memory."""
    before, after = changed("llama-2-7b", embedding=True)
    assert differing(before, after) == {"embedding"}
    model = find_model("llama-2-7b")
    more = weight_bytes(Setup(model, Layout(), None, Rules(embedding=True))) - weight_bytes(Setup(model, Layout(), None, REFERENCE))
    assert more == 2 * 32000 * 4096 * 2


def test_fused_attention():
    """One operator for three: as many operations, and the bytes of queries, keys, values and results alone."""
    before, after = changed("llama-2-7b", fused_attention=True)
    assert differing(before, after) == {"qk_matmul", "sv_matmul", "softmax", "attention"}
    assert after["attention"].flops == sum(before[name].flops for name in ("qk_matmul", "sv_matmul", "softmax"))
    assert after["attention"].bytes == 4 * TOKENS * 4096 * 2


def test_wide_stream():
    """With 8-bit activations linear layers read 8 bits and write 16, and norms do both in 16."""
    before, after = changed("llama-2-7b", precision=Precision.of("w8a8kv8"), wide_stream=True)
    assert after["q_proj"].load_bytes == before["q_proj"].load_bytes
    assert after["q_proj"].store_bytes == 2 * before["q_proj"].store_bytes
    assert after["attn_norm"].bytes == 2 * before["attn_norm"].bytes


def test_every_correction_is_tested():
    """Each switch has a test of its name, and all of them together are what Baton reckons with."""
    assert {f"test_{rule}" for rule in Rules.__struct_fields__} <= globals().keys()
    assert all(msgspec.structs.astuple(CORRECTED))
