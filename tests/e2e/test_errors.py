"""Bad requests get vLLM's own errors in OpenAI's form, name what is wrong, and cost nobody anything."""

from __future__ import annotations

from typing import Any, cast

import httpx
import openai
import pytest

from tests.e2e.answers import assert_same, prompt_of
from tests.support.baton_process import MODEL, BatonServer
from tests.support.reference_server import ReferenceServer

pytestmark = pytest.mark.e2e


def post(url: str, body: dict[str, Any] | str, path: str = "/v1/completions") -> httpx.Response:
    content: dict[str, Any] = (
        {"content": body, "headers": {"content-type": "application/json"}} if isinstance(body, str) else {"json": body}
    )
    return httpx.post(url + path, timeout=60.0, **content)


BAD: dict[str, tuple[dict[str, Any] | str, str]] = {
    "no JSON": ('{"model": "demo", ', "json"),
    "max_tokens of letters": ({"max_tokens": "abc"}, "max_tokens"),
    "max_tokens below zero": ({"max_tokens": -1}, "max_tokens"),
    "temperature of 99": ({"temperature": 99}, "temperature"),
    "temperature below zero": ({"temperature": -1}, "temperature"),
    "top_p of 2": ({"top_p": 2}, "top_p"),
    "n of 0": ({"n": 0}, "n"),
    "too many logprobs": ({"logprobs": 1000}, "logprobs"),
    "a prompt beyond the model": ({"prompt": [500] * 5000}, "4096"),
    "an unknown token": ({"prompt": [10**6]}, "vocab"),
    "no prompt": ({"prompt": None}, "prompt"),
    "an empty prompt": ({"prompt": []}, "prompt"),
    "a schema that is none": ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "n"}}}}, ""),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_what_is_wrong(baton: BatonServer, reference: ReferenceServer, case: str) -> None:
    """Status 400 (or what vLLM says of it), OpenAI's error object, the field's name in it: word for word the reference's."""
    wrong, name = BAD[case]
    body = wrong if isinstance(wrong, str) else {"model": MODEL, "prompt": prompt_of(5, 5), "max_tokens": 3, **wrong}
    ours, theirs = post(baton.url, body), post(reference.url, body)
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
    assert ours.status_code == httpx.codes.BAD_REQUEST
    error = ours.json()["error"]
    assert name in f"{error['message']} {error['param']}".lower()


def test_a_bad_chat_is_told_what_is_wrong(baton: BatonServer) -> None:
    """The client's exception carries the field."""
    with openai.OpenAI(base_url=f"{baton.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="messages"):
            client.chat.completions.create(model=MODEL, messages=cast(Any, "hello"))
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}], temperature=99, max_tokens=3)


def test_an_unknown_model_is_not_found(baton: BatonServer, reference: ReferenceServer) -> None:
    """Status 404 with the model's name, as from vLLM."""
    body = {"model": "no-such-model", "prompt": "hello"}
    ours, theirs = post(baton.url, body), post(reference.url, body)
    assert ours.status_code == httpx.codes.NOT_FOUND
    assert "no-such-model" in ours.json()["error"]["message"]
    assert ours.json() == theirs.json()


@pytest.mark.parametrize("path", ["/v1/no-such-path", "/v1/baton/requests/unknown", "/v1/baton/no-such-path", "/no"])
def test_an_unknown_path_is_not_found(baton: BatonServer, path: str) -> None:
    """Status 404, and which router said so."""
    answer = httpx.get(baton.url + path, timeout=60.0)
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert answer.headers["x-baton-router"]
    if path.endswith("/unknown"):
        assert "unknown" in answer.text


@pytest.mark.parametrize(
    "params",
    [
        {"do_remote_decode": True, "do_remote_prefill": False},
        {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": "nobody",
            "remote_request_id": "nothing",
            "remote_block_ids": [[1, 2]],
            "remote_host": "127.0.0.1",
            "remote_port": 9,
            "remote_num_tokens": 200,
            "tp_size": 1,
        },
        {"baton_release": ["any-leg"]},
    ],
    ids=["keep for me", "pull from there", "release"],
)
def test_a_client_cannot_meddle_with_hand_offs(baton: BatonServer, ours: openai.OpenAI, params: dict[str, Any]) -> None:
    """``kv_transfer_params`` from outside have no effect: the usual answer, split as usual, and nothing kept."""
    usual = ours.completions.create(model=MODEL, prompt=prompt_of(300, 11), max_tokens=6, temperature=0.0)
    answer = ours.completions.create(
        model=MODEL, prompt=prompt_of(300, 11), max_tokens=6, temperature=0.0, extra_body={"kv_transfer_params": params}
    )
    assert_same(answer, usual)
    [timeline] = baton.timelines(answer.id)
    assert timeline["was_transferred"]


def test_errors_leave_the_others_alone(baton: BatonServer) -> None:
    """After all of these, a good request is served."""
    for body, _ in BAD.values():
        post(baton.url, body if isinstance(body, str) else {"model": MODEL, "prompt": "x", **body})
    assert post(baton.url, {"model": MODEL, "prompt": "hello", "max_tokens": 3}).status_code == httpx.codes.OK
