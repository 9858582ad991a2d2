"""What steps cost: chunks, windows, experts, layouts, memory, efficiency."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.step_model import StepWork
from engine.performance.roofline.efficiency import THEORETICAL, Efficiency, Share
from engine.performance.roofline.find_model import find_model
from engine.performance.roofline.hardware import find_hardware
from engine.performance.roofline.layout import Layout
from engine.performance.roofline.memory import kv_bytes_per_sequence, largest_batch, memory, weight_bytes
from engine.performance.roofline.op import Kind
from engine.performance.roofline.operators import exchanges, operators
from engine.performance.roofline.precision import Precision
from engine.performance.roofline.roofline import Roofline
from engine.performance.roofline.rules import CORRECTED, Rules
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Chunk, Step

H100 = find_hardware("h100")
MODELS = ["llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-20b", "mistral-7b-v0.1", "opt-13b"]
windows = st.one_of(st.none(), st.integers(1, 200))


def setup_of(model, layout=None, precision=None, rules=CORRECTED):
    return Setup(find_model(model), layout or Layout(), precision, rules)


def roofline_of(model, layout=None, precision=None, hardware=H100):
    return Roofline(setup_of(model, layout, precision), hardware)


def named(setup, step):
    return {op.name: op for op in operators(setup, step)}


def total(setup, step, field):
    return sum(op.count * getattr(op, field) for op in operators(setup, step))


@given(st.integers(1, 150), st.integers(0, 300), windows)
def test_pairs_are_counted_one_by_one(new, cached, window):
    """The closed form is the sum over tokens of what each may see."""
    seen = [min(cached + index, window or cached + index) for index in range(1, new + 1)]
    assert Chunk(new, cached).pairs(window, is_causal=True) == sum(seen)


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 100), windows)
def test_chunks_add_up_to_the_prompt(first, second, cached, window):
    """However a prompt is cut, its attention is the same."""
    parts = Chunk(first, cached).pairs(window, True) + Chunk(second, cached + first).pairs(window, True)
    assert parts == Chunk(first + second, cached).pairs(window, True)


@given(st.integers(1, 8192), st.integers(0, 8192))
def test_step_of_one_chunk(new, cached):
    """A step's sums tell one chunk and what is cached before it."""
    work = StepWork(prefill_tokens=new, prefill_squares=(cached + new) ** 2 - cached**2)
    (chunk,) = Step.of(work).chunks
    assert (chunk.new_tokens, chunk.cached_tokens, chunk.count) == pytest.approx((new, cached, 1), abs=1e-6)


@given(st.integers(2, 8), st.integers(2, 4096))
def test_step_of_equal_prompts(count, length):
    """And several whole prompts of one length."""
    (chunk,) = Step.of(StepWork(prefill_tokens=count * length, prefill_squares=count * length**2)).chunks
    assert (chunk.new_tokens, chunk.cached_tokens, chunk.count) == pytest.approx((length, 0, count))


def test_step_of_decode_alone_and_mixed():
    """Decode has no chunk; a mixed step has both."""
    assert Step.of(StepWork(batch=3, context_tokens=300)) == Step((), 3, 300)
    assert Step.of(StepWork(10, 100, 3, 300)) == Step((Chunk(10),), 3, 300)


@pytest.mark.parametrize("model", MODELS)
def test_more_work_is_not_faster(model):
    """Seconds grow with tokens, what is cached, batch and context."""
    roofline = roofline_of(model, Layout(tp=8 if model == "deepseek-v3" else 1))
    ladder = [
        [Step((Chunk(tokens),)) for tokens in (1, 100, 1000, 10_000)],
        [Step((Chunk(500, cached),)) for cached in (0, 1000, 8000)],
        [Step((), batch, batch * 1000) for batch in (1, 8, 64, 512)],
        [Step((), 16, 16 * context) for context in (100, 1000, 10_000)],
        [Step((Chunk(512),), batch, batch * 1000) for batch in (0, 8, 64)],
    ]
    for steps in ladder:
        seconds = [roofline.step_s(step) for step in steps]
        assert seconds == sorted(seconds)


@pytest.mark.parametrize("model", MODELS)
def test_mixed_costs_less_than_apart(model):
    """Weights are read once for prompt and decode together, and nothing else changes."""
    roofline = roofline_of(model, Layout(tp=8 if model == "deepseek-v3" else 1))
    together = roofline.step_s(Step((Chunk(64),), 32, 32_000))
    apart = roofline.step_s(Step((Chunk(64),))), roofline.step_s(Step((), 32, 32_000))
    assert max(apart) <= together <= sum(apart)


def test_operations_per_token():
    """A token costs two operations per weight that it meets: 8.0 billion less the embedding in Llama-3.1-8B."""
    flops = sum(op.count * op.flops for op in operators(setup_of("llama-3.1-8b"), Step((), 1, 1)) if op.kind is Kind.LINEAR)
    assert flops == pytest.approx(2 * (8.03e9 - 128256 * 4096), rel=2e-3)


def test_prefill_is_bound_by_compute_and_decode_by_memory():
    """What the whole of disaggregation rests on, for each large operator."""
    roofline = roofline_of("llama-3.1-70b", Layout(tp=4))
    for step, bound in ((Step((Chunk(4096),)), "compute"), (Step((), 32, 32 * 4096), "memory")):
        timed = {each.name: each for each in roofline.timed(step)}
        assert {timed[name].bound for name in ("q_proj", "gate_proj", "down_proj", "attention")} == {bound}


def test_timed_adds_up():
    """The report of operators and exchanges is the step's time."""
    roofline = roofline_of("gpt-oss-120b", Layout(tp=2))
    step = Step((Chunk(100),), 7, 7000)
    assert sum(each.seconds for each in roofline.timed(step)) == pytest.approx(roofline.step_s(step))


def test_experts_read_grow_with_the_batch():
    """A small batch reads few experts, a large one all; operations grow with tokens alone."""
    setup = setup_of("qwen3-30b-a3b")
    one, many = (named(setup, Step((), batch, batch))["experts_down"] for batch in (1, 512))
    assert one.weight_bytes == pytest.approx(8 / 128 * 128 * 768 * 2048 * 2)
    assert many.weight_bytes == pytest.approx(128 * 768 * 2048 * 2, rel=1e-6)
    assert many.flops == 512 * one.flops


@pytest.mark.parametrize(("weights", "ratio"), [("w16a16kv16", 1.0), ("w8a8kv8", 0.5), ("w4a16kv4", 0.25)])
def test_bits(weights, ratio):
    """Weights and KV take as many bytes as they have bits; the head stays as it is."""
    full, narrow = setup_of("llama-3.1-8b"), setup_of("llama-3.1-8b", precision=Precision.of(weights))
    step = Step((), 4, 4000)
    for field in ("weight_bytes", "kv_load_bytes"):
        head = named(full, step)["lm_head"].weight_bytes + named(full, step)["embedding"].weight_bytes if field == "weight_bytes" else 0.0
        assert total(narrow, step, field) - head == pytest.approx(ratio * (total(full, step, field) - head))


def test_four_bit_weights_do_not_save_operations():
    """They are widened before they are multiplied, unless activations are as narrow."""
    assert {op.bits for op in operators(setup_of("llama-3.1-8b", precision=Precision.of("w4a16kv16")), Step((Chunk(8),)))} == {16}
    narrow = operators(setup_of("llama-3.1-8b", precision=Precision.of("w4a4kv16")), Step((Chunk(8),)))
    assert {op.bits for op in narrow if op.name == "q_proj"} == {4}


@pytest.mark.parametrize("model", MODELS)
def test_tensor_parallel_splits_everything_large(model):
    """Two GPUs each do half of the operations; what each has whole (norms, a router, a way down) is small."""
    one, two = setup_of(model), setup_of(model, Layout(tp=2))
    step = Step((Chunk(256),), 8, 8000)
    assert total(two, step, "flops") == pytest.approx(total(one, step, "flops") / 2, rel=0.06)
    assert weight_bytes(two) == pytest.approx(weight_bytes(one) / 2, rel=0.06)


def test_few_kv_heads_are_on_several_gpus():
    """Sixteen GPUs with eight KV heads: each has one, and KV no longer shrinks."""
    eight, sixteen = (kv_bytes_per_sequence(setup_of("llama-3.1-405b", Layout(tp=tp)), 1000) for tp in (8, 16))
    assert eight == sixteen == 126 * 2 * 128 * 2 * 1000


def test_latent_kv_is_on_every_gpu():
    """One latent vector serves all heads."""
    one, eight = (kv_bytes_per_sequence(setup_of("deepseek-v3", Layout(tp=tp)), 1000) for tp in (1, 8))
    assert one == eight


def test_expert_parallel():
    """Each GPU has its share of the experts, tokens travel to them, and the groups' tokens meet there."""
    together, apart = setup_of("qwen3-30b-a3b", Layout(tp=4)), setup_of("qwen3-30b-a3b", Layout(tp=1, ep=4))
    step = Step((), 64, 64_000)
    assert {each.name for each in exchanges(apart, step)} == {"dispatch", "combine"}
    assert {each.name for each in exchanges(together, step)} == {"attention_sum", "mlp_sum", "embedding_sum", "logits"}
    # Four groups of 64 requests each: as many rows per GPU as if one group had all experts.
    assert named(apart, step)["experts_up"].flops == pytest.approx(named(setup_of("qwen3-30b-a3b"), step)["experts_up"].flops)
    assert Layout(tp=2, ep=8).groups == 4
    assert Layout(tp=2, pp=2, ep=8).gpus == 16


def test_pipeline():
    """Stages have the layers among them; a step passes all of them, and the way from one to the next."""
    one, two = setup_of("llama-3.1-70b"), setup_of("llama-3.1-70b", Layout(pp=2))
    step = Step((), 8, 8000)
    assert operators(one, step) == operators(two, step)
    assert [(each.name, each.count) for each in exchanges(two, step)] == [("next_stage", 1)]
    assert weight_bytes(two) == pytest.approx(weight_bytes(one) / 2, rel=0.01)


@pytest.mark.parametrize(
    ("model", "layout", "message"),
    [
        ("llama-3.1-8b", {"tp": 3}, "tp: does not divide the model's 32 heads"),
        ("llama-3.1-8b", {"pp": 64}, "pp: is more than the model's 32 layers"),
        ("llama-3.1-8b", {"ep": 2}, "ep: is for models with experts"),
        ("qwen3-30b-a3b", {"ep": 3}, "ep: does not divide the model's 128 experts"),
        ("qwen3-30b-a3b", {"tp": 4, "ep": 2}, "ep: must be 1 or a multiple of tp"),
        ("llama-3.1-8b", {"tp": 0}, "tp: must be at least 1"),
    ],
)
def test_layouts_that_do_not_work(model, layout, message):
    """Each says which number and why."""
    with pytest.raises(ConfigError, match=message):
        setup_of(model, Layout(**layout))


def test_memory():
    """70 billion parameters in 16 bits need two H100 for the weights, with room for some requests, and four to be of use."""
    step = Step((Chunk(8192),))
    fits = {tp: memory(setup_of("llama-3.1-70b", Layout(tp=tp)), H100, step).fits for tp in (1, 2, 4)}
    assert fits == {1: False, 2: True, 4: True}
    assert largest_batch(setup_of("llama-3.1-70b", Layout(tp=2)), memory(setup_of("llama-3.1-70b", Layout(tp=2)), H100, step), 8192) < 4
    found = memory(setup_of("llama-3.1-70b", Layout(tp=4)), H100, step)
    assert found.weight_bytes == pytest.approx(70.6e9 * 2 / 4, rel=0.01)
    assert found.usable_bytes == pytest.approx(found.weight_bytes + found.activation_bytes + found.reserved_bytes + found.kv_bytes)


def test_largest_batch():
    """KV of so many requests fits and of one more does not; a window lets in more; none where the model does not fit."""
    setup = setup_of("llama-3.1-8b")
    found = memory(setup, H100, Step((Chunk(8192),)))
    batch = largest_batch(setup, found, 8192)
    assert batch * kv_bytes_per_sequence(setup, 8192) <= found.kv_bytes < (batch + 1) * kv_bytes_per_sequence(setup, 8192)
    windowed, whole = setup_of("mistral-7b-v0.1"), setup_of("mistral-7b-v0.1", rules=msgspec.structs.replace(CORRECTED, window=False))
    assert largest_batch(windowed, found, 32768) == pytest.approx(8 * largest_batch(whole, found, 32768), abs=8)
    large = setup_of("llama-3.1-405b")
    assert largest_batch(large, memory(large, H100, Step((Chunk(8192),))), 1000) == 0


def test_theory_is_the_least():
    """Whatever is lost makes a step longer, and overlap in full is the least."""
    setup, step = setup_of("llama-3.1-8b", Layout(tp=2)), Step((Chunk(300),), 16, 16_000)
    least = Roofline(setup, H100, THEORETICAL).step_s(step)
    for changes in (
        {"linear": Share(compute=0.5, memory=0.5)},
        {"decode_attention": Share(memory=0.5)},
        {"elementwise": Share(launch_s=1e-6)},
        {"link": 0.5},
        {"exchange_s": 1e-6},
        {"step_s": 1e-3},
        {"overlap": 2.0},
    ):
        assert Roofline(setup, H100, Efficiency(**changes)).step_s(step) > least, changes


def test_one_after_the_other():
    """Without overlap, an operator takes its operations' and its bytes' time together."""
    setup = setup_of("llama-3.1-8b")
    op = named(setup, Step((), 100, 100))["q_proj"]
    apart = Roofline(setup, H100, Efficiency(overlap=1.0)).op_s(op)
    assert apart == pytest.approx(op.flops / H100.flops(16) + op.bytes / H100.memory_bytes_per_s)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"link": 0.0}, "link: must be above 0"),
        ({"overlap": 0.5}, "overlap: must be at least 1"),
        ({"step_s": -1.0}, "step_s: must not be below 0"),
        ({"linear": Share(memory=1.5)}, "linear.memory: must be above 0 and at most 1"),
        ({"experts": Share(launch_s=-1.0)}, "experts.launch_s: must not be below 0"),
    ],
)
def test_impossible_efficiency(values, message):
    """Nothing is faster than the hardware."""
    with pytest.raises(ConfigError, match=message):
        Efficiency(**values)


def test_reference_has_no_mixed_attention():
    """Prefill and decode attend apart even in one step: their kernels are others."""
    kinds = [op.kind for op in operators(setup_of("llama-3.1-8b", rules=Rules()), Step((Chunk(8),), 2, 16)) if op.name == "qk_matmul"]
    assert kinds == [Kind.PREFILL_ATTENTION, Kind.DECODE_ATTENTION]
