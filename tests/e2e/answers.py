"""One call of the official client, on either server, boiled down to what has to be equal."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import openai

VOCABULARY = range(300, 4096)
"""Ids of the demo model that are whole words or parts of words: no marks of its template."""

LOGPROB_TOLERANCE = 1e-3
"""Sums in another order: with float32 weights the last digits move, a token's rank does not."""

_OF_ONE_SERVER = {"id", "created", "created_at", "completed_at", "system_fingerprint", "prompt_tokens_details", "input_tokens_details"}
"""Names and times of an answer, and what that server happened to have cached."""

Json = dict[str, Any]


def client_of(url: str) -> openai.OpenAI:
    """The official client, without the retries that would hide errors."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120.0)


def async_client_of(url: str) -> openai.AsyncOpenAI:
    """The same, for many requests at once."""
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120.0)


def prompt_of(tokens: int, seed: int) -> list[int]:
    """Token ids; a prompt of another seed or another length shares no first block with it."""
    return random.Random(f"{tokens} {seed}").choices(VOCABULARY, k=tokens)


def comparable(answer: Any) -> Any:
    """An answer of the client without what differs from one server, or one second, to the next."""
    plain = answer.model_dump() if isinstance(answer, openai.BaseModel) else answer
    if isinstance(plain, dict):
        return {name: comparable(value) for name, value in plain.items() if name not in _OF_ONE_SERVER}
    return [comparable(value) for value in plain] if isinstance(plain, list) else plain


def differences(ours: Any, theirs: Any, at: str = "answer") -> Iterator[str]:
    """Every place where two answers differ. Everything has to be equal, logprobs up to their last digits."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in ours.keys() | theirs.keys():
            yield from differences(ours.get(name), theirs.get(name), f"{at}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            yield f"{at}: {len(ours)} items, not {len(theirs)}"
        for index, (mine, yours) in enumerate(zip(ours, theirs, strict=False)):
            yield from differences(mine, yours, f"{at}[{index}]")
    elif isinstance(ours, float) and isinstance(theirs, float):
        if not math.isclose(ours, theirs, rel_tol=0, abs_tol=LOGPROB_TOLERANCE):
            yield f"{at}: {ours!r}, not {theirs!r}"
    elif ours != theirs:
        yield f"{at}: {ours!r}, not {theirs!r}"


def assert_same(ours: Any, theirs: Any) -> None:
    """Fails with every place where Baton's answer is not the reference's."""
    assert list(differences(comparable(ours), comparable(theirs))) == []


def joined(chunks: list[Any]) -> list[Json]:
    """The choices of a stream, each put together from its chunks: text, token ids, logprobs, why it ended."""
    choices: dict[int, Json] = {}
    for choice in (choice for chunk in chunks for choice in comparable(chunk)["choices"]):
        whole = choices.setdefault(choice["index"], {"text": "", "token_ids": [], "logprobs": [], "finish": None, "stop_reason": None})
        assert whole["finish"] is None, "a chunk behind the last"
        delta = choice.get("delta") or choice
        whole["text"] += delta.get("text") or delta.get("content") or ""
        whole["token_ids"] += choice.get("token_ids") or []
        whole["logprobs"] += _token_logprobs(choice.get("logprobs"))
        whole["finish"] = choice["finish_reason"]
        whole["stop_reason"] = choice.get("stop_reason")
    return [choices[index] for index in sorted(choices)]


def _token_logprobs(logprobs: Json | None) -> list[float]:
    """Of the completions' form or of the chat's."""
    if logprobs is None:
        return []
    return logprobs.get("token_logprobs") or [entry["logprob"] for entry in logprobs.get("content") or ()]


def token_ids(answer: Any) -> list[list[int]]:
    """The output tokens of every choice of a completion asked for with ``return_token_ids``."""
    return [choice["token_ids"] for choice in answer.model_dump()["choices"]]
