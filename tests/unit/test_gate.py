"""The gate: who gets in, and what of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from core.ids import RouterId
from core.metrics.words import Why
from core.objectives_config import Objectives
from core.router_config import ApiKeysConfig
from router.gate import Gate
from router.keys import KeyRing
from router.objectives import Promises
from router.reason import Reason
from router.routes import BatonHeaders
from router.served_paths import HEALTH, INFERENCE, SERVED, SMALL, SMALL_BYTES, WITHOUT_KEY
from router.service import WantedService, current_service

KEYS = KeyRing(ApiKeysConfig(env="K"), environment={"K": "alice=a-key-0123456789,bob=b-key-0123456789"})
JSON = (b"content-type", b"application/json")
LIMIT = 1024
PREFLIGHT = ((b"origin", b"https://page.example"), (b"access-control-request-method", b"GET"))


class App:
    """Reads the whole body and answers 200; remembers what it was handed."""

    def __init__(self) -> None:
        self.scope: Scope = {}
        self.body = b""
        self.asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        self.scope = scope
        while True:
            message = await receive()
            self.body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})


class Answer:
    """What came of a request: status, headers, JSON, and how many pieces of the body had been read when it was answered."""

    def __init__(self, sent: list[Message], read: int) -> None:
        self.sent, self.read = sent, read
        self.status: int | None = sent[0]["status"] if sent else None
        self.headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]} if sent else {}

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.sent[1]["body"])["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["code"] == self.status
        return error


async def ask(
    app: Any,
    path: str = "/v1/completions",
    *headers: tuple[bytes, bytes],
    method: str = "POST",
    body: list[bytes] | None = None,
    **scope: Any,
) -> Answer:
    """Asks ``app``. A body of several pieces is chunked; after the last piece of [] nothing ever comes."""
    pieces = [b"{}"] if body is None else body
    sent: list[Message] = []
    read = read_before = 0

    async def receive() -> Message:
        nonlocal read
        if read == len(pieces):
            await asyncio.Event().wait()
        read += 1
        return {"type": "http.request", "body": pieces[read - 1], "more_body": read < len(pieces) or not pieces[-1]}

    async def send(message: Message) -> None:
        nonlocal read_before
        read_before = read if not sent else read_before
        sent.append(message)

    length = (b"content-length", str(len(pieces[0])).encode()) if len(pieces) == 1 else (b"transfer-encoding", b"chunked")
    own = {name for name, _ in headers}
    all_headers = [*headers, *(pair for pair in (length, JSON) if pair[0] not in own)]
    request: Scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": all_headers, **scope}
    await app(request, receive, send)
    return Answer(sent, read_before)


# -- keys --------------------------------------------------------------------------------------------------------------------

CREDENTIALS: dict[str, tuple[tuple[bytes, bytes] | None, str | None]] = {
    "none": (None, None),
    "bearer": ((b"authorization", b"Bearer a-key-0123456789"), "alice"),
    "bearer in small letters": ((b"authorization", b"bearer b-key-0123456789"), "bob"),
    "as Anthropic's clients do": ((b"x-api-key", b"b-key-0123456789"), "bob"),
    "unknown": ((b"authorization", b"Bearer c-key-0123456789"), None),
    "empty": ((b"authorization", b"Bearer "), None),
    "another scheme": ((b"authorization", b"Basic a-key-0123456789"), None),
    "no scheme": ((b"authorization", b"a-key-0123456789"), None),
    "bytes that are no text": ((b"authorization", b"Bearer \xff\xfe"), None),
}


@pytest.mark.parametrize(("credential", "name"), CREDENTIALS.values(), ids=CREDENTIALS.keys())
async def test_a_key_opens_and_names(credential: tuple[bytes, bytes] | None, name: str | None) -> None:
    """With a key the app is asked and told whose it is; without, 401 in OpenAI's form, and the body is not read."""
    app = App()
    answer = await ask(Gate(app, LIMIT, KEYS), "/v1/completions", *([credential] if credential else []))
    if name:
        assert (answer.status, app.scope["state"]["baton_key"]) == (200, name)
    else:
        assert (answer.status, answer.headers["www-authenticate"], answer.read, app.asked) == (401, "Bearer", 0, 0)
        assert answer.error["type"] == "authentication_error"
        assert answer.headers["connection"] == "close"


NOT_OPEN = ("/v1/baton/status", "/v1/baton/requests/x", "/v1/baton/console", "/console/x", "/no/such", "/", "/v1/../health", "//health")


@pytest.mark.parametrize("path", sorted({*SERVED, *WITHOUT_KEY, *NOT_OPEN}))
async def test_every_path_needs_a_key_but_those_that_say_that_we_live(path: str) -> None:
    """The list of exceptions is closed; what looks like one is none."""
    app = App()
    answer = await ask(Gate(app, LIMIT, KEYS), path, method="GET")
    assert (answer.status == 200) == (path in WITHOUT_KEY)
    assert {"/health", "/ping", "/-/healthz", "/-/routes"} == HEALTH
    assert all(path == "/console" or path.startswith("/console/") for path in WITHOUT_KEY - HEALTH)


async def test_below_a_route_prefix() -> None:
    """Serve's prefix is in both the root path and the path."""
    app = App()
    assert (await ask(Gate(app, LIMIT, KEYS), "/baton/health", root_path="/baton")).status == 200
    assert (await ask(Gate(app, LIMIT, KEYS), "/baton/v1/models", root_path="/baton")).status == 401


async def test_a_browser_may_ask_whether_it_may_ask() -> None:
    """A preflight cannot carry a key. It is handed on without its path: for the middleware that answers these, and for no route."""
    app = App()
    assert (await ask(Gate(app, LIMIT, KEYS), "/metrics", *PREFLIGHT, method="OPTIONS", raw_path=b"/metrics")).status == 200
    assert (app.scope["path"], app.scope["raw_path"]) == ("*", b"*")
    assert (await ask(Gate(app, LIMIT, KEYS), "/baton/metrics", *PREFLIGHT, method="OPTIONS", root_path="/baton")).status == 200
    assert app.scope["path"] == "*"


@pytest.mark.parametrize("headers", [(), PREFLIGHT[:1], PREFLIGHT[1:]], ids=["neither", "an origin", "a method"])
async def test_another_options_needs_a_key(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    """No middleware answers it, so a route would."""
    app, key = App(), (b"x-api-key", b"a-key-0123456789")
    assert (await ask(Gate(app, LIMIT, KEYS), "/metrics", *headers, method="OPTIONS")).status == 401
    assert app.asked == 0
    assert (await ask(Gate(app, LIMIT, KEYS), "/metrics", *headers, key, method="OPTIONS")).status == 200
    assert app.scope["path"] == "/metrics"


async def test_without_keys_everybody_is_served() -> None:
    """The default. Nobody has a name then."""
    app = App()
    assert (await ask(Gate(app, LIMIT))).status == 200
    assert app.scope["state"]["baton_key"] is None


async def test_web_sockets_are_closed() -> None:
    """No route takes one, so nothing behind has to be looked at."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    app = App()
    await Gate(app, LIMIT)({"type": "websocket", "path": "/v1/realtime"}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert (sent, app.asked) == ([{"type": "websocket.close", "code": 1008}], 0)


# -- overload ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(INFERENCE))
async def test_too_much_to_do(path: str) -> None:
    """429 with OpenAI's error and whole seconds to wait, before the body is read."""
    app = App()
    answer = await ask(Gate(app, LIMIT, overload=lambda _: ("the queue is full", 0.2)), path)
    assert (answer.status, answer.headers["retry-after"], answer.read, app.asked) == (429, "1", 0, 0)
    assert (answer.error["message"], answer.error["type"]) == ("the queue is full; try again in 1 s", "rate_limit_error")


async def test_what_costs_workers_nothing_is_served_under_overload() -> None:
    """How it goes can be asked then most of all. Keys come first: strangers learn nothing of the load."""
    gate = Gate(App(), LIMIT, KEYS, lambda _: ("full", 3.4))
    key = (b"x-api-key", b"a-key-0123456789")
    assert [(await ask(gate, path, key, method="GET")).status for path in ("/v1/models", "/metrics", "/v1/baton/status")] == [200] * 3
    assert (await ask(gate)).status == 401
    assert (await ask(gate, "/v1/completions", key)).headers["retry-after"] == "4"


async def test_the_queue_is_asked_with_what_the_request_gets() -> None:
    """Before the body with the most it may turn out to get, after it with that; once where the body changes nothing."""
    asked: list[WantedService] = []

    def overload(service: WantedService) -> tuple[str, float] | None:
        asked.append(service)
        return ("full", 1.0) if service.priority > 0 else None

    gate = Gate(App(), LIMIT, KEYS, overload)
    key = (b"x-api-key", b"b-key-0123456789")
    assert (await ask(gate, "/v1/completions", key, body=[b"{}"])).status == 200
    assert asked == [WantedService("bob")]
    answer = await ask(gate, "/v1/completions", key, body=[b'{"priority":5}'])
    assert (answer.status, answer.headers["retry-after"], answer.error["message"]) == (429, "1", "full; try again in 1 s")
    assert asked[1:] == [WantedService("bob"), WantedService("bob", priority=5)]


# -- objectives --------------------------------------------------------------------------------------------------------------


class Served(App):
    """Remembers what its requests were to get, also in tasks it began for them."""

    def __init__(self) -> None:
        super().__init__()
        self.services: list[WantedService] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def later() -> WantedService:
            return current_service()

        self.services += [current_service(), await asyncio.create_task(later())]
        await super().__call__(scope, receive, send)


async def test_what_a_request_gets_is_known_behind_the_gate_and_to_its_client() -> None:
    """By header and by body, in all tasks of the request; nothing of it is left for the next one."""
    app = Served()
    promises = Promises(Objectives.model_validate({"classes": {"flex": {"priority": 50}}}))
    gate = Gate(app, LIMIT, promises=promises)
    tenant = (b"x-baton-tenant", b"team-a")
    answer = await ask(gate, "/v1/completions", tenant, body=[b'{"service_tier":"flex","priority":60}'])
    assert (answer.headers["x-baton-class"], answer.headers["x-baton-priority"]) == ("flex", "60")
    assert app.services == [WantedService("team-a", "flex", 60)] * 2
    assert app.body == b'{"service_tier":"flex"}'
    assert current_service() == WantedService()


async def test_what_is_no_inference_gets_nothing() -> None:
    """Its headers are not even looked at."""
    app = Served()
    answer = await ask(Gate(app, LIMIT), "/tokenize", (b"x-baton-class", b"no such"))
    assert (answer.status, "x-baton-class" in answer.headers, app.services) == (200, False, [WantedService()] * 2)


@pytest.mark.parametrize("header", [b"x-baton-class", b"x-baton-ttft-s", b"x-baton-priority", b"x-baton-tenant"])
async def test_objectives_that_make_no_sense(header: bytes) -> None:
    """400 before the body is read."""
    answer = await ask(Gate(App(), LIMIT), "/v1/completions", (header, b"?"))
    assert (answer.status, answer.read) == (400, 0)
    assert header.decode() in answer.error["message"]


# -- bodies ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [b"1025", b"9" * 30])
async def test_a_body_announced_too_large_is_not_read(length: bytes) -> None:
    """413 at once, and the connection is closed, or the client would go on sending."""
    app = App()
    answer = await ask(Gate(app, LIMIT), "/v1/completions", (b"content-length", length))
    assert (answer.status, answer.read, app.asked, answer.headers["connection"]) == (413, 0, 0, "close")
    assert str(LIMIT) in answer.error["message"]


async def test_a_chunked_body_is_counted_as_it_comes() -> None:
    """It is given up with the piece that is too much, however many would follow."""
    app = App()
    answer = await ask(Gate(app, LIMIT), body=[b"x" * 600] * 1000)
    assert (answer.status, answer.read, app.asked) == (413, 2, 0)


async def test_a_body_of_the_largest_size_goes_through() -> None:
    """The limit is what may be, and all of it arrives."""
    app = App()
    whole = b'{"prompt":"' + b"x" * (LIMIT - 13) + b'"}'
    assert (await ask(Gate(app, LIMIT), body=[whole[:500], whole[500:]])).status == 200
    assert app.body == whole
    assert (b"content-length", str(LIMIT).encode()) in app.scope["headers"]
    assert not [name for name, _ in app.scope["headers"] if name == b"transfer-encoding"]


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    """408 after the limit, also when it trickles."""
    app = App()
    answer = await ask(Gate(app, LIMIT, body_timeout_s=0.05), body=[b"{", b""])
    assert (answer.status, app.asked) == (408, 0)


async def test_a_client_that_leaves_while_it_sends() -> None:
    """Nobody is answered, nobody is asked."""
    app = App()
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [(b"content-length", b"5")]}
    await Gate(app, LIMIT)(scope, receive, send)
    assert (sent, app.asked) == ([], 0)


async def test_after_the_body_the_app_hears_of_a_client_that_leaves() -> None:
    """What comes behind the body is passed on as it comes."""
    heard: list[Message] = []
    messages: Iterator[Message] = iter([{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.extend([await receive(), await receive()])

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None: ...

    await Gate(app, LIMIT)({"type": "http", "method": "POST", "path": "/x", "headers": [(b"content-length", b"2"), JSON]}, receive, send)
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/messages/count_tokens"])
async def test_what_only_tokenises_takes_less(path: str) -> None:
    """A megabyte, for no model's context limits it; other routes take what the configuration says."""
    app = App()
    assert (await ask(Gate(app, 4 * SMALL_BYTES), path, (b"content-length", str(SMALL_BYTES + 1).encode()))).status == 413
    assert (await ask(Gate(app, 4 * SMALL_BYTES), body=[b'{"prompt":"' + b"x" * SMALL_BYTES + b'"}'])).status == 200
    assert path in SMALL


@pytest.mark.parametrize("kind", [b"application/json", b"Application/JSON; charset=utf-8", b"application/vnd.x+json"])
async def test_json_is_looked_at_whatever_it_is_called(kind: bytes) -> None:
    """Any content type that the server behind would parse."""
    app = App()
    answer = await ask(Gate(app, LIMIT), "/v1/completions", (b"content-type", kind), body=[b'{"kv_transfer_params":{"a":1},"n":1}'])
    assert (answer.status, app.body) == (200, b'{"n":1}')
    assert (b"content-length", b"7") in app.scope["headers"]


# -- headers on the way out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "given", "wanted"), [(503, None, "8"), (429, None, "8"), (429, b"3", "3"), (500, None, None)])
async def test_whoever_is_to_come_back_is_told_when(status: int, given: bytes | None, wanted: str | None) -> None:
    """As it is at that moment; what the app has said already stays."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"Retry-After", given)] if given else []})
        await send({"type": "http.response.body", "body": b""})

    wait: Callable[[], float] = lambda: 7.2  # noqa: E731 - what the signature asks for
    answer = await ask(BatonHeaders(app, RouterId("router-7"), wait))
    assert {name.lower(): value for name, value in answer.headers.items()}.get("retry-after") == wanted
    assert answer.headers["x-baton-router"] == "router-7"


# -- what is counted ---------------------------------------------------------------------------------------------------------


async def _counted(*headers: tuple[bytes, bytes], gate: dict[str, Any], **asked: Any) -> list[tuple[Why, WantedService | None]]:
    """What the gate tells of a request."""
    told: list[tuple[Why, WantedService | None]] = []
    await ask(Gate(App(), LIMIT, refused=lambda why, service: told.append((why, service)), **gate), "/v1/completions", *headers, **asked)
    return told


async def test_every_refusal_is_counted_by_its_reason() -> None:
    """Once; a request that is let in not at all."""
    assert await _counted(gate={}) == []
    assert await _counted(gate={"keys": KEYS}) == [(Why.UNAUTHORIZED, None)]
    assert await _counted(gate={}, body=[b"x" * 2000]) == [(Why.TOO_LARGE, None)]
    assert await _counted((b"x-baton-ttft-s", b"soon"), gate={}) == [(Why.INVALID, None)]
    assert await _counted(gate={"body_timeout_s": 0.01}, body=[b"{", b""]) == [(Why.SLOW_BODY, None)]


async def test_an_overload_is_counted_with_what_the_request_was_promised() -> None:
    """Refused before its body was read, it counts as what its headers ask for: goodput has to know whom it failed."""
    full = Reason(Why.QUEUE_FULL, "the queue is full")
    asked = (b"x-baton-ttft-s", b"0.5")
    [(why, service)] = await _counted(asked, gate={"overload": lambda _: (full, 1.0)})
    assert service is not None
    assert (why, service.ttft_s, service.has_objective) == (Why.QUEUE_FULL, 0.5, True)
    assert [why for why, _ in await _counted(gate={"overload": lambda _: ("in other words", 1.0)})] == [Why.OTHER]
