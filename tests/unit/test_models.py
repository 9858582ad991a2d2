"""Several models behind one door: which one a request gets to, what all of them say together, and what is refused before that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from operator import eq
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

from core.ids import RouterId
from core.metrics import of_requests as m
from core.metrics.exposition import ByModel
from core.metrics.tally import Levels
from core.metrics.words import Why
from core.router_config import ApiKeysConfig
from router.entrance import Entrance
from router.keys import KeyRing
from router.models import Models, ServedModel, together
from router.selection import Way, model_in_address, model_in_body, way

KEY = "k" * 20
INFER = "/v1/completions"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/chat/completions", Way.BY_BODY),
        ("POST", "/tokenize", Way.BY_BODY),
        ("GET", "/v1/models", Way.EACH),
        ("GET", "/v1/baton/status", Way.EACH),
        ("GET", "/v1/baton/requests", Way.EACH),
        ("GET", "/v1/baton/requests/cmpl-1", Way.WHO_KNOWS),
        ("GET", "/v1/responses/resp_1", Way.WHO_KNOWS),
        ("POST", "/v1/responses/resp_1/cancel", Way.WHO_KNOWS),
        ("GET", "/health", Way.FIRST),
        ("GET", "/console", Way.FIRST),
        ("GET", "/metrics", Way.FIRST),
    ],
)
def test_where_the_model_is_looked_for(method: str, path: str, expected: Way):
    """In the body of what costs workers something; with everybody for what everybody knows something of."""
    assert way(method, path) is expected


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b'{"model": 5}', b"\xff", b"[" * 100_000], ids=range(6))
def test_what_cannot_be_read_is_left_to_a_server(body: bytes):
    """The first model's gate refuses it, or vLLM says what is wrong, as where there is one model."""
    assert model_in_body(body, ["a"]) is None


def test_the_last_of_equal_names_counts():
    """As for whoever reads the body next; and in an address."""
    assert model_in_body(b'{"model": "a", "model": "b"}', ["a", "b"]) == "b"
    assert model_in_address(b"model=a&model=org%2Fb") == "org/b"
    assert model_in_address(b"limit=3") is None


def server(name: str, known: Mapping[str, Any], seen: list[tuple[str, bytes]]) -> ASGIApp:
    """A model's: answers 404 to what is not ``known``, and POSTs with its name; keeps every body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"] if scope["method"] == "POST" else b""
        seen.append((name, body))
        told = {"model": name} if scope["path"] == INFER else known.get(scope["path"])
        await send({"type": "http.response.start", "status": 404 if told is None else 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})

    return app


class Door:
    """Two models, ``a`` and ``org/B``; what got to their servers, and what was refused before."""

    def __init__(self, known_to_b: Mapping[str, Any] | None = None, keys: KeyRing | None = None) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.refused: list[Why] = []
        models = {
            name: ServedModel(server(name, known, self.seen), partial(eq, name), lambda why, service: self.refused.append(why))
            for name, known in (("a", {"/health": "fine"}), ("org/B", known_to_b or {}))
        }
        app = Models(models, Entrance(2000, keys), RouterId("r-1"))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door")


async def test_each_gets_its_own():
    """The body as it was sent, to the model it names and to no other."""
    door = Door()
    for model in ("org/B", "a"):
        body = json.dumps({"model": model, "prompt": "x"}).encode()
        answer = await door.client.post(INFER, content=body)
        assert (answer.json(), door.seen.pop()) == ({"model": model}, (model, body))
    assert not door.seen


async def test_who_is_served_is_said_to_whoever_asks_for_something_else():
    """404 in vLLM's form; 400 where no model is named; both counted, and both from a router that says who it is."""
    door = Door()
    unknown = await door.client.post(INFER, json={"model": "c"})
    missing = await door.client.post(INFER, json={"prompt": "x"})
    assert unknown.json()["error"] == {
        "message": "The model `c` does not exist. Served here are `a`, `org/B`",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }
    assert (missing.status_code, missing.json()["error"]["message"]) == (400, "`model` is missing. Served here are `a`, `org/B`")
    assert (await door.client.get("/v1/baton/status", params={"model": "c"})).status_code == 404
    assert unknown.headers["x-baton-router"] == "r-1"
    assert door.refused == [Why.INVALID] * 3
    assert not door.seen


async def test_bounds_hold_at_the_door(monkeypatch: pytest.MonkeyPatch):
    """Nobody without a key learns what is served, and no body is read beyond its bound, whoever it is for."""
    monkeypatch.setenv("KEYS", KEY)
    door = Door(keys=KeyRing(ApiKeysConfig(env="KEYS")))
    assert (await door.client.post(INFER, json={"model": "c"})).status_code == 401
    assert (await door.client.get("/v1/models")).status_code == 401
    assert (await door.client.get("/v1/baton/status?model=c")).status_code == 401
    for name in ("", "?model=a", "?model=c"):
        assert (await door.client.get(f"/health{name}")).status_code == 200
    bearer = {"authorization": f"Bearer {KEY}"}
    assert (await door.client.post(INFER, json={"model": "a", "prompt": "x" * 3000}, headers=bearer)).status_code == 413
    assert (await door.client.post(INFER, json={"model": "a"}, headers=bearer)).status_code == 200


async def test_who_knows_a_request_is_asked_until_somebody_does():
    """A response's number says nothing of its model. A body is there for each that is asked."""
    door = Door({"/v1/baton/requests/1": {"router": "r-1"}, "/v1/responses/r/cancel": "cancelled"})
    assert (await door.client.get("/v1/baton/requests/1")).json() == {"router": "r-1"}
    assert (await door.client.get("/v1/baton/requests/2")).status_code == 404
    door.seen.clear()
    assert (await door.client.post("/v1/responses/r/cancel", content=b"{}")).json() == "cancelled"
    assert door.seen == [("a", b"{}"), ("org/B", b"{}")]


async def test_all_are_asked_together_unless_one_is_meant():
    """One that has trouble does not keep the others from being told of."""
    door = Door({"/v1/baton/status": {"workers": []}})
    assert (await door.client.get("/v1/baton/status")).json() == {"models": {"a": {"error": "None"}, "org/B": {"workers": []}}}
    assert (await door.client.get("/v1/baton/status", params={"model": "org/B"})).json() == {"workers": []}


async def test_prometheus_is_told_of_all_models_or_keeps_what_it_has():
    """A list that lacks a model's workers would end its alerts just when its controller is away."""
    door = Door({"/v1/baton/targets": [{"targets": ["b"]}]})
    answer = await door.client.get("/v1/baton/targets")
    assert (answer.status_code, answer.json()) == (503, {"detail": "the controller of a does not answer"})


def test_lists_are_put_together():
    """The models that are served, and whom Prometheus is to scrape: in the form in which one model's would be."""
    assert together("/v1/models", {"a": (200, {"data": [1]}), "b": (200, {"data": [2, 3]})}) == {"object": "list", "data": [1, 2, 3]}
    assert together("/v1/baton/targets", {"a": (200, [1]), "b": (200, [2])}) == [1, 2]
    assert together("/v1/baton/scaling", {"a": (503, {"error": {"message": "away"}})}) == {"models": {"a": {"error": "away"}}}


def test_metrics_of_several_models_are_one_family():
    """Prometheus refuses a page that has a family twice."""
    registry = CollectorRegistry()
    registry.register(ByModel({name: partial(lambda n: [Levels(m.WAITING_REQUESTS).set(n)], n) for n, name in enumerate("ab")}))
    page = generate_latest(registry).decode()
    assert page.count(f"# TYPE {m.WAITING_REQUESTS.name} ") == 1
    assert f'{m.WAITING_REQUESTS.name}{{model="a"}} 0.0' in page
    assert f'{m.WAITING_REQUESTS.name}{{model="b"}} 1.0' in page
