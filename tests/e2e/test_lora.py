"""LoRA adapters over two workers: what is answered is what one plain vLLM answers with the same adapter, token for token."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from deploy.demo_adapter import make_adapter
from tests.e2e.answers import assert_same, async_client_of, client_of, joined, prompt_of, token_ids
from tests.support.baton_process import ARGS, MODEL, BatonServer, baton_up
from tests.support.reference_server import ReferenceServer, reference_up

pytestmark = pytest.mark.e2e

NAMES = ("poet", "smith", "baker")
"""One more than a worker holds: in turns, each pushes another one out. The last is in no configuration, only in the directory."""
SLOTS = 2
MAX_RANK = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters, two of them broken."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(NAMES):
        make_adapter(folder / name, seed)
    (make_adapter(folder / "torn", 9) / "adapter_model.safetensors").write_bytes(b"no tensors")
    make_adapter(folder / "large", 9, rank=2 * MAX_RANK)
    return folder


@pytest.fixture(scope="module")
def baton(folder: Path) -> Iterator[BatonServer]:
    """One of its own: the other modules' would have to replace its engines twice. Two adapters by name, and the folder."""
    named = {name: {"path": str(folder / name)} for name in NAMES[:2]}
    with baton_up({**ARGS, "lora": {"adapters": named, "directory": str(folder), "max_loaded": SLOTS, "max_rank": MAX_RANK}}) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def serves(baton: BatonServer) -> None:
    """It does."""


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[ReferenceServer]:
    """One vLLM with the same adapters."""
    modules = [f"{name}={folder / name}" for name in NAMES]
    more = ["--enable-lora", "--max-loras", str(len(NAMES)), "--max-lora-rank", str(MAX_RANK), "--lora-modules", *modules]
    with reference_up(*more) as server:
        yield server


def complete(client: openai.OpenAI, model: str, prompt: list[int], **asked: Any) -> Any:
    settings = {"max_tokens": 16, "temperature": 0.0, "logprobs": 1, **asked}
    return client.completions.create(model=model, prompt=prompt, extra_body={"return_token_ids": True}, **settings)


def refused(client: openai.OpenAI, model: str) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        complete(client, model, prompt_of(20, 1))
    return caught.value


def test_each_answers_as_in_one_plain_engine(baton: BatonServer, plain: ReferenceServer) -> None:
    """Over two workers, and by one alone where there is nothing to hand over; as a stream, too. And each says something else."""
    prompt, said = prompt_of(300, 1), set()
    with client_of(baton.url) as ours, client_of(plain.url) as theirs:
        for model in (MODEL, *NAMES, MODEL, NAMES[0]):
            for asked in ({}, {"max_tokens": 1}, {"temperature": 1.0, "seed": 5}):
                answer = complete(ours, model, prompt, **asked)
                assert_same(answer, complete(theirs, model, prompt, **asked))
                assert answer.model == model
            assert_same(*(joined(list(complete(client, model, prompt, stream=True))) for client in (ours, theirs)))
            whole = complete(ours, model, prompt)
            [timeline] = baton.timelines(whole.id)
            assert timeline["prefill_worker"] != timeline["decode_worker"]
            said.add(tuple(token_ids(whole)[0]))
    assert len(said) == 1 + len(NAMES)


def test_what_one_has_cached_is_nothing_to_the_others(baton: BatonServer) -> None:
    """The same prompt: computed anew for each, cached for the next with the same."""
    prompt = prompt_of(300, 2)
    with client_of(baton.url) as ours:
        for model in (MODEL, *NAMES):
            first, second = (complete(ours, model, prompt).usage.prompt_tokens_details for _ in range(2))
            assert (first is None or not first.cached_tokens, second.cached_tokens) == (True, 256), model


async def test_all_at_once(baton: BatonServer, plain: ReferenceServer) -> None:
    """More adapters than a worker holds, in one batch of requests: some wait, and every answer is right."""

    async def ask(client: openai.AsyncOpenAI, number: int) -> Any:
        model = (MODEL, *NAMES)[number % (1 + len(NAMES))]
        extra = {"return_token_ids": True}
        prompt = prompt_of(40 + number, number)
        return await client.completions.create(model=model, prompt=prompt, max_tokens=12, temperature=0.0, extra_body=extra)

    async with async_client_of(baton.url) as ours, async_client_of(plain.url) as theirs:
        expected = [await ask(theirs, number) for number in range(16)]
        answers = await asyncio.gather(*(ask(ours, number) for number in range(16)))
    assert_same([answer.model_dump() for answer in answers], [answer.model_dump() for answer in expected])


def test_they_are_listed_as_children_of_the_model(baton: BatonServer, folder: Path) -> None:
    """By their names; where they lie is told to nobody."""
    text = httpx.get(f"{baton.url}/v1/models").text
    listed = {card["id"]: card["parent"] for card in httpx.get(f"{baton.url}/v1/models").json()["data"]}
    assert listed == {MODEL: None, **dict.fromkeys((*NAMES, "torn", "large"), MODEL)}
    assert str(folder) not in text


def test_one_that_comes_later_is_there_at_once(baton: BatonServer, folder: Path) -> None:
    """Nothing is told to anybody: it is asked for."""
    with client_of(baton.url) as ours:
        assert refused(ours, "later").status_code == 404
        make_adapter(folder / "later", 7)
        assert complete(ours, "later", prompt_of(20, 1)).model == "later"


@pytest.mark.parametrize("name", ["nobody", "../poet", "poet/", ".", "", "a" * 500])
def test_an_unknown_name_is_refused_as_vllm_does(baton: BatonServer, plain: ReferenceServer, folder: Path, name: str) -> None:
    """404 in its words; no name leads out of the folder."""
    with client_of(baton.url) as ours, client_of(plain.url) as theirs:
        if name == "":  # vLLM takes no name at all for its own
            assert complete(ours, name, prompt_of(20, 1)).model == complete(theirs, name, prompt_of(20, 1)).model == MODEL
            return
        errors = [refused(client, name) for client in (ours, theirs)]
        assert [error.status_code for error in errors] == [404, 404]
        assert_same(errors[0].body, errors[1].body)
        assert refused(ours, str(folder / "poet")).status_code == 404


@pytest.mark.parametrize(("name", "why"), [("torn", "torn"), ("large", "max_lora_rank")])
def test_a_broken_one_ends_its_request_and_nothing_else(baton: BatonServer, folder: Path, name: str, why: str) -> None:
    """It says which one it is and why, not where it lies; the workers go on in the same life, and so does every answer."""
    before = {role: (worker["worker"], worker["epoch"]) for role, worker in baton.workers().items()}
    with client_of(baton.url) as ours:
        said = complete(ours, "poet", prompt_of(20, 1))
        for _ in range(2):
            error = refused(ours, name)
            assert error.status_code == 404
            assert f"`{name}` cannot be loaded" in error.message
            assert why in error.message
            assert str(folder) not in error.message
        assert token_ids(complete(ours, "poet", prompt_of(20, 1))) == token_ids(said)
    assert {role: (worker["worker"], worker["epoch"]) for role, worker in baton.workers().items()} == before
