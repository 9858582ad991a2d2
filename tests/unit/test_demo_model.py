"""The demo model: made without a network, the same everywhere, and real enough to serve."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy import demo_model

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Grüße from 東京 🎏"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}],
    },
    {"role": "tool", "content": "sunny"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return demo_model.ensure_demo_model(tmp_path_factory.mktemp("demo") / "model")


@pytest.fixture(scope="module")
def tokenizer(model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def test_it_is_built_once(tmp_path, monkeypatch):
    """The model is kept in the user's cache under a name that changes with this code; nothing half-made stays beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = demo_model.ensure_demo_model()
    assert path == tmp_path / "baton" / f"demo-model-{demo_model.version()}"
    monkeypatch.setattr(demo_model, "build", None)  # calling it again would fail
    assert demo_model.ensure_demo_model() == path
    assert list(path.parent.iterdir()) == [path]


def test_workers_may_build_it_at_the_same_time(tmp_path):
    """Of two builders at once one wins, and both get a whole model."""
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(demo_model.ensure_demo_model, [tmp_path / "model"] * 2))
    assert paths == [tmp_path / "model"] * 2
    assert os.listdir(tmp_path) == ["model"]


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    """A builder that dies leaves no directory that the next one would take for a model."""

    def broken(directory):
        (directory / "tokenizer.json").write_text("{")
        raise OSError("disk full")

    monkeypatch.setattr(demo_model, "build", broken)
    with pytest.raises(OSError, match="disk full"):
        demo_model.ensure_demo_model(tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_every_machine_gets_the_same(model, tmp_path):
    """Two builds are equal byte by byte: workers on different nodes must hold one model."""
    demo_model.build(tmp_path)
    for file in sorted(model.iterdir()):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_any_text_survives_the_tokenizer(tokenizer):
    """Encoding and decoding gives back the text, and English takes fewer tokens than bytes."""
    text = "def f(x):\n    return 'naïve 東京 🎏'"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    english = "The statement is executed as if the class were defined again."
    assert len(tokenizer.encode(english)) < len(english) / 3


def test_the_chat_template_knows_every_role_and_tools(tokenizer):
    """System, user, assistant and tool messages, content as parts, tool calls, and tools as JSON all reach the prompt, in order."""
    text = tokenizer.apply_chat_template(MESSAGES, tools=[TOOL], add_generation_prompt=True, tokenize=False)
    assert text.startswith("<s><|im_start|>system\n")
    assert json.loads(text.split("\n")[2]) == TOOL
    order = ["Be brief.", "Grüße from 東京 🎏", '{"name": "weather", "arguments": {"city": "Ulm"}}', "<|im_start|>tool\nsunny"]
    places = [text.find(part) for part in order]
    assert places == sorted(places)
    assert -1 not in places
    assert text.endswith("<|im_start|>assistant\n")


def test_answers_are_clear_and_varied(model, tokenizer):
    """Greedy steps are no near ties in float32, the answer is no single token repeated, it is plain text, and it depends on the prompt."""
    import torch
    from transformers import LlamaForCausalLM

    torch.set_num_threads(1)  # threads that wait for each other cost more than so small a model gains
    llama = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    answers = []
    for question in ("Hello", "Hello!", "Tell me about classes. " * 20):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        out = llama.generate(**prompt, max_new_tokens=32, do_sample=False, output_logits=True, return_dict_in_generate=True)
        best = torch.cat(out.logits).topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 1e-3
        answers.append(out.sequences[0, prompt["input_ids"].shape[1] :].tolist())
        assert len(set(answers[-1])) > len(answers[-1]) / 2
        assert tokenizer.decode(answers[-1], skip_special_tokens=True).isascii()
    assert len({tuple(answer[:8]) for answer in answers}) == len(answers)
