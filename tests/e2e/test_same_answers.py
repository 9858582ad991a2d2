"""Whatever is asked, and however, Baton's answer is the one that a plain vLLM engine gives: token for token."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.e2e.answers import assert_same, async_client_of, joined, prompt_of, token_ids
from tests.support.baton_process import MODEL, BatonServer
from tests.support.reference_server import ReferenceServer

pytestmark = pytest.mark.e2e

LENGTHS = [1, 2, 127, 128, 129, 255, 256, 257, 500, 1500, 3000]
"""Around the edges of blocks of 128 tokens, and beyond what an engine computes in one step."""

PROMPT = prompt_of(150, 1)
MESSAGES: list[Any] = [{"role": "system", "content": "You run relays."}, {"role": "user", "content": "Who has the baton now?"}]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "size": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["colour", "size"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "paint", "description": "Paints it.", "parameters": SCHEMA, "strict": True}}

Both = tuple[openai.OpenAI, openai.OpenAI]
"""Baton's client and the reference's."""


@pytest.fixture
def both(ours: openai.OpenAI, theirs: openai.OpenAI) -> Both:
    return ours, theirs


def complete(client: openai.OpenAI, prompt: list[int] | str = PROMPT, **asked: Any) -> Any:
    """A greedy completion of 16 tokens, unless asked otherwise; what the client has no name for goes in ``extra``."""
    extra = {"return_token_ids": True, **asked.pop("extra", {})}
    return client.completions.create(**{"model": MODEL, "prompt": prompt, "max_tokens": 16, "temperature": 0.0, **asked}, extra_body=extra)


def chat(client: openai.OpenAI, **asked: Any) -> Any:
    """Likewise a chat completion."""
    settings = {"model": MODEL, "messages": MESSAGES, "max_tokens": 24, "temperature": 0.0, **asked}
    return client.chat.completions.create(**settings, extra_body={"return_token_ids": True})


def same(both: Both, **asked: Any) -> Any:
    """Asks both for a completion; Baton's answer, which is the reference's, plain and as a stream."""
    ours, theirs = (complete(client, **asked) for client in both)
    assert_same(ours, theirs)
    assert_same(*(joined(list(complete(client, stream=True, **asked))) for client in both))
    return ours


@pytest.mark.parametrize("tokens", LENGTHS)
def test_greedy_answers_to_prompts_of_any_length(both: Both, tokens: int) -> None:
    """The same tokens and logprobs, wherever the prompt ends within a block; streamed and not."""
    answer = same(both, prompt=prompt_of(tokens, 100 + tokens), logprobs=2)
    assert answer.usage.prompt_tokens == tokens
    assert [len(ids) for ids in token_ids(answer)] == [16]


@pytest.mark.parametrize("tokens", [1, 128, 500])
def test_a_stream_is_the_answer_in_pieces(ours: openai.OpenAI, tokens: int) -> None:
    """Its chunks join to what the same request without a stream gets, and its last tells the usage."""
    prompt = prompt_of(tokens, 200 + tokens)
    whole = complete(ours, prompt, logprobs=1)
    *chunks, last = complete(ours, prompt, logprobs=1, stream=True, stream_options={"include_usage": True})
    assert len(chunks) > 1
    assert_same(joined(chunks), joined([whole]))
    assert_same(last.usage, whole.usage)


@pytest.mark.parametrize("how", [{"temperature": 1.0, "extra": {"top_k": 1}}, {"temperature": 1.0, "seed": 7}], ids=["greedy", "seeded"])
def test_three_choices_with_logprobs(both: Both, how: dict[str, Any]) -> None:
    """Every one of n=3 is the reference's. (Greedy is asked for by top_k: vLLM refuses n > 1 at temperature 0.)"""
    answer = same(both, n=3, logprobs=3, **how)
    choices = token_ids(answer)
    assert len(choices) == 3
    assert len(set(map(tuple, choices))) == (3 if "seed" in how else 1)


@pytest.mark.parametrize("seed", [0, 1, 2**31])
def test_seeded_sampling(both: Both, seed: int) -> None:
    """The same seed draws the same tokens, though two workers share the drawing."""
    same(both, seed=seed, temperature=1.0)
    same(both, seed=seed, temperature=0.7, top_p=0.9, extra={"top_k": 50, "min_p": 0.01})


def test_stop_strings(both: Both) -> None:
    """A stop string ends the answer and is cut off, wherever it lies: also in the first token, or begun by it."""
    ours, _ = both
    ids = token_ids(complete(ours, max_tokens=6))[0]
    texts = [complete(ours, max_tokens=count).choices[0].text for count in range(1, 7)]
    first, second, sixth = texts[0], texts[1], texts[5]
    stops = {
        "the first token": (first, 1),
        "the first token's first letter": (first[:1], 1),
        "across the first two tokens": (first[-1] + second[len(first) :][:2], 2),
        "the sixth token": (sixth[len(texts[4]) :], 6),
    }
    for where, (stop, tokens) in stops.items():
        answer = same(both, stop=[stop])
        assert (answer.choices[0].finish_reason, answer.choices[0].text) == ("stop", sixth[: sixth.index(stop)]), where
        assert token_ids(answer) == [ids[:tokens]], where
    same(both, stop=[first], extra={"include_stop_str_in_output": True})
    same(both, stop=["no such text"])


@pytest.mark.parametrize("place", [0, 1, 5])
def test_stop_tokens(both: Both, place: int) -> None:
    """A stop token ends the answer, also when prefill samples it; min_tokens puts it off."""
    ids = token_ids(complete(both[0]))[0]
    answer = same(both, extra={"stop_token_ids": [ids[place]]})
    assert token_ids(answer) == [ids[: ids.index(ids[place]) + 1]]
    assert answer.choices[0].finish_reason == "stop"
    put_off = same(both, extra={"stop_token_ids": [ids[place]], "min_tokens": 8})
    assert len(token_ids(put_off)[0]) >= 8


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"presence_penalty": 1.5}, id="presence"),
        pytest.param({"frequency_penalty": 1.2}, id="frequency"),
        pytest.param({"extra": {"repetition_penalty": 1.4}}, id="repetition"),
        pytest.param({"presence_penalty": 0.7, "frequency_penalty": -0.6, "extra": {"repetition_penalty": 1.1}}, id="all"),
    ],
)
def test_penalties(both: Both, asked: dict[str, Any]) -> None:
    """They count what the answer has said so far, its first token included."""
    same(both, max_tokens=32, **asked)


def test_bad_words(both: Both) -> None:
    """Words that would be said are not, be they one token or several, the first token or begun by it."""
    free = complete(both[0]).choices[0].text
    first, first_two = (complete(both[0], max_tokens=count).choices[0].text for count in (1, 2))
    answers = [same(both, extra={"bad_words": bad}).choices[0].text for bad in ([first], [first_two], free.split()[3:5], free.split())]
    assert any(answer != free for answer in answers)  # not all: a word may be spelt with other tokens than vLLM looks for


def test_logit_bias(both: Both) -> None:
    """It holds for the first token as for all others."""
    ids = token_ids(complete(both[0]))[0]
    assert ids[0] not in token_ids(same(both, logit_bias={str(ids[0]): -100}))[0]
    assert token_ids(same(both, logit_bias={"1234": 100})) == [[1234] * 16]
    assert set(token_ids(same(both, extra={"allowed_token_ids": [500, 600, 700]}))[0]) <= {500, 600, 700}


@pytest.mark.parametrize("tokens", [40, 128, 300])
def test_echo_and_prompt_logprobs(both: Both, tokens: int) -> None:
    """Logprobs of the prompt come once, from the worker that computed it, and the answer behind them is the usual one."""
    prompt = prompt_of(tokens, 300 + tokens)
    echoed = complete(both[0], prompt, echo=True, logprobs=1)
    assert_same(echoed, complete(both[1], prompt, echo=True, logprobs=1))
    assert len(echoed.choices[0].logprobs.token_logprobs) == tokens + 16
    ours, theirs = (complete(client, prompt, extra={"prompt_logprobs": 2}) for client in both)
    assert_same(ours, theirs)
    assert len(ours.model_dump()["choices"][0]["prompt_logprobs"]) == tokens
    assert token_ids(ours) == token_ids(complete(both[0], prompt))


def test_echo_of_the_prompt_alone(both: Both) -> None:
    """max_tokens=0 is refused or echoed as vLLM does it."""
    answers = []
    for client in both:
        try:
            answers.append(complete(client, echo=True, logprobs=1, max_tokens=0))
        except openai.BadRequestError as error:
            answers.append(error.body)
    assert_same(*answers)


def test_one_token(both: Both) -> None:
    """With nothing to decode there is still one right token, and why it is the last."""
    answer = same(both, max_tokens=1, logprobs=1)
    assert (len(token_ids(answer)[0]), answer.choices[0].finish_reason) == (1, "length")


@pytest.mark.parametrize("prompt_tokens", [4060, 4094, 4095])
def test_up_to_the_model_s_last_token(both: Both, prompt_tokens: int) -> None:
    """An answer may fill all that the model can hold."""
    answer = same(both, prompt=prompt_of(prompt_tokens, prompt_tokens), max_tokens=4096 - prompt_tokens)
    assert answer.usage.total_tokens == 4096


def test_several_prompts_in_one_request(both: Both) -> None:
    """Each has its own answer, in order."""
    prompts: Any = [prompt_of(length, length) for length in (5, 130, 256)]
    answer = same(both, prompt=prompts)
    assert len(answer.choices) == 3


def test_chat_with_a_system_message(both: Both) -> None:
    """Through the chat template, with logprobs, streamed and not."""
    ours, theirs = (chat(client, logprobs=True, top_logprobs=2) for client in both)
    assert_same(ours, theirs)
    streams = [joined(list(chat(client, logprobs=True, stream=True))) for client in both]
    assert_same(*streams)
    assert streams[0][0]["text"] == ours.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_output_by_schema(both: Both, stream: bool) -> None:
    """What it writes is JSON that obeys the schema, from the first token on."""
    form = {"type": "json_schema", "json_schema": {"name": "spot", "schema": SCHEMA}}
    answers = [chat(client, max_tokens=200, response_format=form, stream=stream) for client in both]
    if stream:
        ours, theirs = (joined(list(answer)) for answer in answers)
        text = ours[0]["text"]
    else:
        ours, theirs = answers
        text = ours.choices[0].message.content
    assert_same(ours, theirs)
    spot = json.loads(text)
    assert spot["colour"] in {"red", "green"}
    assert 0 <= spot["size"] <= 99


def test_seeded_output_by_schema(both: Both) -> None:
    """Two reasons at once for decode to sample the first token."""
    form = {"type": "json_schema", "json_schema": {"name": "spot", "schema": SCHEMA}}
    ours, theirs = (chat(client, max_tokens=200, response_format=form, seed=3, temperature=1.0) for client in both)
    assert_same(ours, theirs)
    json.loads(ours.choices[0].message.content)


def test_chat_with_tools(both: Both) -> None:
    """Tools are part of the prompt; one asked for by name is called, with arguments that obey its schema."""
    assert_same(*(chat(client, tools=[TOOL]) for client in both))
    named = {"type": "function", "function": {"name": "paint"}}
    ours, theirs = (chat(client, tools=[TOOL], tool_choice=named, max_tokens=200) for client in both)
    assert_same(ours, theirs)
    [call] = ours.choices[0].message.tool_calls
    assert call.function.name == "paint"
    assert json.loads(call.function.arguments).keys() == {"colour", "size"}


def test_responses(both: Both) -> None:
    """OpenAI's newer interface is served as well."""
    asked: dict[str, Any] = {"model": MODEL, "input": "Who has the baton now?", "max_output_tokens": 16, "temperature": 0.0}
    ours, theirs = (client.responses.create(**asked) for client in both)
    assert_same(ours, theirs)
    assert ours.output_text


async def test_many_at_once(baton: BatonServer, reference: ReferenceServer) -> None:
    """Each of 32 different requests at once has the answer it has alone."""

    async def ask(client: openai.AsyncOpenAI, number: int) -> Any:
        how: dict[str, Any] = {"seed": number, "temperature": 1.0} if number % 4 == 0 else {"temperature": 0.0}
        extra = {"return_token_ids": True}
        prompt = prompt_of(1 + 37 * number % 700, 500 + number)
        return await client.completions.create(model=MODEL, prompt=prompt, max_tokens=8 + number, extra_body=extra, **how)

    async with async_client_of(baton.url) as ours, async_client_of(reference.url) as theirs:
        expected = [await ask(theirs, number) for number in range(32)]
        answers = await asyncio.gather(*(ask(ours, number) for number in range(32)))
    assert_same([answer.model_dump() for answer in answers], [answer.model_dump() for answer in expected])
