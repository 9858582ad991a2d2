"""Which of several models a request is for, and what is asked of all of them. Pure."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto
from http import HTTPStatus
from urllib.parse import parse_qs

import msgspec

from router.entrance import RefusedError
from router.served_paths import INFERENCE, SMALL


class Way(Enum):
    """How the model is found that a request goes to."""

    BY_BODY = auto()
    """The body names it."""
    EACH = auto()
    """All are asked, and their answers are put together."""
    WHO_KNOWS = auto()
    """All are asked in turn, until one knows what it is about."""
    FIRST = auto()
    """It is about none, and any model's server answers it alike; or about a page, which shows the first."""


TARGETS = "/v1/baton/targets"
_OF_EACH = frozenset(
    {
        "/v1/models",
        "/v1/baton/status",
        "/v1/baton/scaling",
        TARGETS,
        "/v1/baton/workers",
        "/v1/baton/requests",
    }
)
_BY_NUMBER = ("/v1/responses/", "/v1/baton/requests/", "/v1/baton/decisions/")
"""What only the model knows that it was asked of."""


class _Named(msgspec.Struct):
    model: str | None = None


_decoder = msgspec.json.Decoder(_Named)


def way(method: str, path: str) -> Way:
    """Where nothing in the address names a model."""
    if method == "POST" and path in INFERENCE | SMALL:
        return Way.BY_BODY
    if method == "GET" and path in _OF_EACH:
        return Way.EACH
    if method in {"GET", "POST"} and path.startswith(_BY_NUMBER):
        return Way.WHO_KNOWS
    return Way.FIRST


def model_in_address(query: bytes) -> str | None:
    """``?model=NAME``: the one that is meant, whatever the path."""
    return parse_qs(query.decode("latin-1")).get("model", [None])[-1]


def model_in_body(body: bytes, served: Collection[str]) -> str | None:
    """The model it names; None where it cannot be read, so that a model's server may say what is wrong with it. Raises RefusedError
    where it names none: nobody is to wonder whose answer that was."""
    try:
        named = _decoder.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not named:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"`model` is missing. {_all(served)}", param="model")
    return named


def unknown(model: str, served: Collection[str]) -> RefusedError:
    """In vLLM's words, and what there is instead."""
    return RefusedError(HTTPStatus.NOT_FOUND, f"The model `{model}` does not exist. {_all(served)}", param="model")


def _all(served: Collection[str]) -> str:
    return f"Served here are {', '.join(f'`{name}`' for name in served)}"
