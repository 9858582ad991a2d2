"""Requests meant to hurt, against a real router with simulated workers: a clear 4xx at once, and nothing held up or left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psutil
import pytest
import zmq.asyncio

from cluster.channel import ChannelKeys, RouterEnd, WorkerEnd
from cluster.messages import Hello
from core.ids import RouterId
from core.router_config import ApiKeysConfig
from router.internal_fields import VettedBody
from router.keys import KeyRing
from router.served_paths import NOT_SERVED, WITHOUT_KEY
from tests.support.eventually import assert_eventually
from tests.support.router_server import MAX_MODEL_LEN, MODEL, RouterServer, router_server

pytestmark = pytest.mark.integration

PROMPT = {"model": MODEL, "prompt": "hi", "max_tokens": 3}
USER = [{"role": "user", "content": "hi"}]
CHAT = {"model": MODEL, "messages": USER, "max_tokens": 3}
SLOWEST_S = 3.0
"""Of processors' time for an answer: what else the machine does must not count. What is looked for takes minutes, or never ends, and
what waits without computing ends with the client's patience."""
LONGEST_STALL_S = 1.5
"""Likewise, of the event loop's thread."""


@contextlib.asynccontextmanager
async def serving(**installed: Any) -> AsyncIterator[tuple[RouterServer, httpx.AsyncClient]]:
    """A server and a client of it. On the way out nothing may be left."""
    async with router_server(**installed) as server, httpx.AsyncClient(base_url=server.url, timeout=60.0) as client:
        yield server, client
        await server.nothing_left()


class Stall:
    """The longest time for which the event loop computed one thing, and every other client had to wait."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def watch(self) -> None:
        last_s = time.thread_time()
        while True:
            await asyncio.sleep(0.01)
            now_s = time.thread_time()
            self.longest_s = max(self.longest_s, now_s - last_s)
            last_s = now_s


# -- bodies ------------------------------------------------------------------------------------------------------------------

NUMBERS = ["1e999", "-1e999", "NaN", "Infinity", "-1", "1" + "0" * 30, "9" * 5000, "true", '"x"', "[]", "{}", "[[]]", "null", f'"{10**20}"']
NUMERIC: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/completions": (
        PROMPT,
        "temperature max_tokens n top_k top_p min_p seed logprobs prompt_logprobs min_tokens presence_penalty frequency_penalty "
        "repetition_penalty length_penalty stop_token_ids logit_bias truncate_prompt_tokens stream_interval thinking_token_budget "
        "allowed_token_ids bad_words stop stream_options vllm_xargs cache_salt response_format structured_outputs prompt model best_of "
        "repetition_detection",
    ),
    "/v1/chat/completions": (
        CHAT,
        "messages top_logprobs tools tool_choice chat_template_kwargs documents reasoning_effort media_io_kwargs",
    ),
    "/v1/responses": ({"model": MODEL, "input": "hi", "max_output_tokens": 3}, "input tools tool_choice text reasoning include prompt"),
    "/v1/messages": (CHAT, "messages system tools tool_choice thinking stop_sequences metadata output_config top_k"),
    "/tokenize": ({"prompt": "x"}, "prompt"),
    "/detokenize": ({"tokens": [20]}, "tokens"),
    "/generative_scoring": ({"model": MODEL, "query": "a", "items": ["b"], "label_token_ids": [20]}, "query items label_token_ids"),
}


def wrong_values() -> Iterator[tuple[str, str, bytes]]:
    for path, (base, fields) in NUMERIC.items():
        for field in fields.split():
            for value in NUMBERS:
                rest = {name: given for name, given in base.items() if name != field}
                yield f"{path} {field}={value[:12]}", path, f'{json.dumps(rest)[:-1]},"{field}":{value}}}'.encode()


def said(base: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({**base, **more}).encode()


def content_of(content: Any) -> bytes:
    return said(CHAT, messages=[{"role": "user", "content": content}])


REFUSED: dict[str, tuple[str, bytes]] = {
    "no JSON": ("/v1/completions", b'{"model": '),
    "no UTF-8": ("/v1/completions", b'{"model":"demo","prompt":"\xff\xfe"}'),
    "half a character": ("/v1/completions", b'{"model":"demo","prompt":"\\ud800","max_tokens":3}'),
    "half a character to look for": ("/v1/completions", b'{"model":"demo","prompt":"a","stop":["\\ud800"],"max_tokens":3}'),
    "10,000 levels": ("/v1/completions", b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "ten million levels": ("/v1/completions", b"[" * 10_000_000),
    "a schema of 80 levels": ("/v1/completions", said(PROMPT, structured_outputs={"json": json.loads('{"items":' * 80 + "{}" + "}" * 80)})),
    "n": ("/v1/completions", said(PROMPT, n=100_000)),
    "n in quotes": ("/v1/completions", said(PROMPT, n="3000")),
    "n with a fraction": ("/v1/completions", said(PROMPT, n=300.0)),
    "ten megabytes to count": ("/v1/messages/count_tokens", content_of("a" * 10_000_000)),
    "many prompts": ("/v1/completions", said(PROMPT, prompt=["a"] * 100_000)),
    "longer than the model": ("/v1/completions", said(PROMPT, prompt=[500] * (MAX_MODEL_LEN + 1))),
    "a million tokens": ("/v1/completions", said(PROMPT, prompt=[20] * 1_000_000)),
    "ten megabytes of one word": ("/v1/chat/completions", content_of("a" * 10_000_000)),
    "100,000 messages": ("/v1/chat/completions", said(CHAT, messages=USER * 100_000)),
    "ten megabytes to tokenise": ("/tokenize", said({}, prompt="a" * 10_000_000)),
    "a token that is none": ("/v1/completions", said(PROMPT, prompt=[-1])),
    "a token of 70 bits": ("/v1/completions", said(PROMPT, prompt=[2**70])),
    "no role": ("/v1/chat/completions", said(CHAT, messages=[{"content": "x"}])),
    "a role of another kind": ("/v1/chat/completions", said(CHAT, messages=[{"role": 5, "content": "x"}])),
    "a picture from the router's own files": (
        "/v1/chat/completions",
        content_of([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]),
    ),
    "a picture from inside": ("/v1/chat/completions", content_of([{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x"}}])),
    "a template": ("/v1/chat/completions", said(CHAT, chat_template="{{ 1 }}")),
    "a template inside": ("/v1/chat/completions", said(CHAT, chat_template_kwargs={"chat_template": "{{ 1 }}"})),
    "endless items": ("/v1/completions", said(PROMPT, structured_outputs={"json": {"type": "array", "minItems": 10**12}})),
    "a regex that is none": ("/v1/completions", said(PROMPT, structured_outputs={"regex": "("})),
    "nested stars": ("/v1/completions", said(PROMPT, structured_outputs={"regex": "(" * 400 + "a" + "|b)*" * 400})),
    "2,000 properties": (
        "/v1/completions",
        said(PROMPT, structured_outputs={"json": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(2000)}}}),
    ),
    "an answer without a part": (
        "/v1/responses",
        said({"model": MODEL}, input=[{"type": "message", "role": "assistant", "content": [], "id": "x", "status": "completed"}]),
    ),
    "a megabyte as id": ("/v1/completions", said(PROMPT, request_id="x" * 10**6)),
    "a form": ("/v1/completions", b"a=b"),
}


def says_why(answer: dict[str, Any]) -> bool:
    """Whether it is an error in OpenAI's form, Anthropic's, or the one of the framework below vLLM's server."""
    if "detail" in answer:
        return True
    error = answer.get("error", {})
    return {"message", "type", "code"} <= error.keys() or (answer.get("type") == "error" and "message" in error)


async def test_every_bad_body_is_refused_and_nobody_waits_for_it() -> None:
    """Each of a thousand gets its 4xx, or its answer where nothing was wrong after all; none a 5xx, none stops the others for long."""
    stall, strange = Stall(), []
    async with serving() as (_, client):
        watching = asyncio.create_task(stall.watch())
        refused = [(name, path, body) for name, (path, body) in REFUSED.items()]
        for name, path, body in [*wrong_values(), *refused]:
            headers = {"content-type": "application/x-www-form-urlencoded" if name == "a form" else "application/json"}
            stall.longest_s, begun_s = 0.0, time.process_time()
            answer = await client.post(path, content=body, headers=headers)
            took_s = time.process_time() - begun_s
            if (
                answer.status_code >= 500
                or took_s > SLOWEST_S
                or stall.longest_s > LONGEST_STALL_S
                or (name in REFUSED and answer.is_success)
            ):
                strange.append((name, answer.status_code, round(took_s, 2), round(stall.longest_s, 2), answer.text[:120]))
            elif answer.is_error and not says_why(answer.json()):
                strange.append((name, answer.status_code, 0.0, 0.0, answer.text[:120]))
        watching.cancel()
        assert (await client.post("/v1/completions", json=PROMPT)).is_success
    assert strange == []


TOO_LARGE: dict[str, dict[str, Any]] = {
    "an integer": {"top_k": 10**20},
    "an integer in quotes": {"top_k": str(10**20)},
    "a part of one": {"stream_interval": f" {10**20}.0 "},
    "inside": {"repetition_detection": {"max_pattern_size": 10**20, "min_count": 2}},
    "inside, in quotes": {"repetition_detection": {"max_pattern_size": str(10**20), "min_count": 2}},
    "of vLLM's own": {"vllm_xargs": {"a": [1, 10**20]}},
    "in a constraint": {"structured_outputs": {"json": {"type": "integer", "maximum": 10**20}}},
}
"""Numbers that vLLM takes, and that no message to a worker can hold."""


@pytest.mark.parametrize("n", [1, 2])
async def test_numbers_that_cannot_be_sent_leave_nothing_behind(n: int) -> None:
    """400 with words for each, and vLLM's front half has forgotten it, however often."""
    async with serving() as (server, client):
        for name, extra in TOO_LARGE.items():
            for stream in (False, True):
                answer = await client.post("/v1/completions", json={**PROMPT, **extra, "n": n, "temperature": 1.0, "stream": stream})
                assert (answer.status_code, bool(answer.json()["error"]["message"])) == (400, True), (name, answer.text)
        assert server.held() == []


@pytest.mark.parametrize("n", [1, 2])
async def test_what_the_gate_does_not_see_leaves_nothing_behind(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever cannot be encoded is forgotten by vLLM's front half too, and is told as the client's mistake."""
    monkeypatch.setattr("router.gate.vetted_body", VettedBody)
    async with serving() as (server, client):
        for _ in range(50):
            answer = await client.post("/v1/completions", json={**PROMPT, "top_k": str(10**20), "n": n, "temperature": 1.0})
            assert answer.status_code == 400
            assert "cannot be sent to a worker" in answer.json()["error"]["message"]
        processor = server.llm.output_processor
        assert (server.held(), processor.request_states, processor.parent_requests, dict(processor.external_req_ids)) == ([], {}, {}, {})


async def test_nothing_of_hand_offs_is_taken_from_a_client() -> None:
    """What looks like it is for the cluster's inside has no effect: same answer, nothing kept, nothing pulled."""
    meddling: list[dict[str, Any]] = [
        {"kv_transfer_params": {"do_remote_decode": True}},
        {"kv_transfer_params": {"do_remote_prefill": True, "remote_host": "127.0.0.1", "remote_port": 9, "remote_engine_id": "x"}},
        {"kv_transfer_params": {"baton_release": ["any-leg"]}},
        {"ec_transfer_params": {"a": 1}},
        {"vllm_xargs": {"kv_transfer_params": "x", "kv_cache_report_mode": "full"}},
    ]
    async with serving() as (_, client):
        usual = (await client.post("/v1/completions", json={**PROMPT, "temperature": 0.0})).json()["choices"][0]["text"]
        for extra in meddling:
            answer = await client.post("/v1/completions", json={**PROMPT, "temperature": 0.0, **extra})
            assert answer.json()["choices"][0]["text"] == usual
        headers = {"x-data-parallel-rank": "7", "x-vllm-priority": "-9"}
        assert (await client.post("/v1/completions", json=PROMPT, headers=headers)).is_success


async def test_ids_are_the_clients_to_repeat() -> None:
    """Sixteen requests under one id at once are sixteen requests, each with its own answer."""
    async with serving() as (_, client):
        asked = [
            client.post("/v1/completions", json={**PROMPT, "max_tokens": 20 + number, "ignore_eos": True}, headers={"x-request-id": "same"})
            for number in range(16)
        ]
        answers = await asyncio.gather(*asked)
        assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [20 + number for number in range(16)]
        assert (await client.post("/v1/completions", json=PROMPT, headers={"x-request-id": "x" * 5000})).status_code == 400


async def test_routes_that_are_not_for_clients_are_not_there() -> None:
    """404 for each with every method; 405 where it looks like the id of a response."""
    async with serving() as (_, client):
        for path in NOT_SERVED:
            for method in ("GET", "POST", "PUT", "DELETE"):
                answer = await client.request(method, path.replace("{adapter_name}", "x"), json={})
                assert answer.status_code == 404 or (answer.status_code == 405 and path.startswith("/v1/responses/")), path


# -- connections -------------------------------------------------------------------------------------------------------------


def raw(method: str, path: str, body: bytes, *headers: str) -> bytes:
    head = [f"{method} {path} HTTP/1.1", "host: x", "content-type: application/json", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


async def connected(server: RouterServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port), limit=2**16)


async def test_a_reader_that_never_reads_is_cut() -> None:
    """Its request ends on the workers, too, and the router holds nothing more for it."""
    async with serving(stalled_s=0.5) as (server, _):
        body = json.dumps({**PROMPT, "max_tokens": 2000, "ignore_eos": True, "stream": True, "n": 60, "temperature": 1.0}).encode()
        _, writer = await connected(server)
        writer.write(raw("POST", "/v1/completions", body, f"content-length: {len(body)}"))
        await assert_eventually(lambda: len(server.dispatcher) == 60, 20.0, "it is served")
        await assert_eventually(lambda: not server.held(), 60.0, "nothing is held for it")
        writer.close()


async def test_a_client_that_closes_its_half_has_left() -> None:
    """Whoever says that nothing more will come is not waited for, and what it asked for is stopped."""
    async with serving() as (server, _):
        body = json.dumps({**PROMPT, "max_tokens": 2000, "ignore_eos": True, "stream": True}).encode()
        reader, writer = await connected(server)
        writer.write(raw("POST", "/v1/completions", body, f"content-length: {len(body)}"))
        assert b"200" in await reader.readline()
        writer.write_eof()
        await assert_eventually(lambda: not server.held(), 15.0, "nothing is held for it")
        writer.close()


async def test_a_body_that_announces_more_than_it_brings() -> None:
    """413 without waiting for it; the connection is closed."""
    async with serving(max_body_bytes=2048) as (server, client):
        reader, writer = await connected(server)
        writer.write(raw("POST", "/v1/completions", b"{", "content-length: 10000000000"))
        async with asyncio.timeout(10.0):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 413")
        writer.close()

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(10_000):
                yield b"x" * 65536

        with contextlib.suppress(httpx.TransportError):  # closed while it was still sending
            assert (await client.post("/v1/completions", content=endless())).status_code == 413


async def test_keys_over_http() -> None:
    """Off the list, everything is 401, Baton's own routes and the documentation too; a key opens it."""
    keys = KeyRing(ApiKeysConfig(env="K"), environment={"K": "alice=a-key-0123456789"})
    async with serving(keys=keys) as (_, client):
        for path in ("/v1/models", "/v1/baton/workers", "/v1/baton/status", "/metrics", "/docs", "/openapi.json", "/nowhere"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (await client.get("/health")).status_code == 200
        for headers in ({"authorization": "Bearer a-key-0123456789"}, {"x-api-key": "a-key-0123456789"}):
            assert (await client.post("/v1/completions", json=PROMPT, headers=headers)).is_success


async def test_no_options_opens_a_route() -> None:
    """Without a key, neither as browsers ask before a request nor in any other way, no path tells what is behind it, mounts included."""
    keys = KeyRing(ApiKeysConfig(env="K"), environment={"K": "alice=a-key-0123456789"})
    origin, method = {"origin": "https://page.example"}, {"access-control-request-method": "GET"}
    async with serving(keys=keys) as (server, client):
        paths = {str(getattr(route, "path", "/")) for route in server.app.routes}
        assert {"/metrics", "/v1/models", "/v1/baton/status"} <= paths
        for path in sorted(paths - WITHOUT_KEY | {"/metrics/", "/metricsx", "/metrics/x", "//metrics", "/nowhere", "/"}):
            url = path.replace("{", "").replace("}", "")
            for headers in ({}, origin, method):
                answer = await client.request("OPTIONS", f"{server.url}{url}", headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, 401), (path, headers)
            answer = await client.request("OPTIONS", f"{server.url}{url}", headers=origin | method)
            assert answer.text in {"OK", "Disallowed CORS origin"}, path  # as `allowed_origins` is; these are the middleware's words


# -- the data plane ----------------------------------------------------------------------------------------------------------

GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\x01CURVE" + b"\0" * 15 + b"\0" + b"\0" * 31
"""ZMTP 3.1 with CURVE, as far as anybody can get without a key."""
NOISE = {
    "nothing": b"",
    "bytes": bytes(range(256)) * 64,
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "a greeting and silence": GREETING,
    "a greeting and a frame of an exabyte": GREETING + b"\x06" + (2**60).to_bytes(8, "big") + b"x" * 4096,
    "a greeting and a frame of two gigabytes": GREETING + b"\x02" + (2**31).to_bytes(8, "big") + b"x" * 4096,
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE.keys())
async def test_strangers_cannot_make_a_worker_allocate(noise: bytes) -> None:
    """A thousand connections without the key, whatever they send: nothing reaches the worker, and its memory stays where it is."""
    routers, worker = ChannelKeys.make(), ChannelKeys.make()
    end = WorkerEnd("127.0.0.1", worker, routers.public, 1.0)
    context = zmq.asyncio.Context()
    router: RouterEnd | None = None
    try:
        host, port = end.address.removeprefix("tcp://").split(":")
        before = psutil.Process().memory_info().rss
        for _ in range(5):
            connections = await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(200)))
            for _, writer in connections:
                writer.write(noise)
            await asyncio.gather(*(drained(writer) for _, writer in connections))
            for _, writer in connections:
                writer.close()
        assert psutil.Process().memory_info().rss - before < 64 * 2**20
        router = RouterEnd(context, RouterId("router-0"), end.address, worker.public, routers, 1.0)
        router.send(Hello())
        async with asyncio.timeout(10.0):
            assert (await end.receive())[0] == "router-0"  # the first that was heard at all
    finally:
        if router is not None:
            router.close()
        end.close()
        context.destroy(0)


async def drained(writer: asyncio.StreamWriter) -> None:
    """All is sent, or the other end has hung up, which is as good."""
    with contextlib.suppress(ConnectionError):
        await writer.drain()


# -- streams that fail early -------------------------------------------------------------------------------------------------

EARLY = {
    "/v1/completions": {**PROMPT, "stream": True, "structured_outputs": {"regex": "("}},
    "/v1/chat/completions": {**CHAT, "stream": True, "structured_outputs": {"regex": "("}},
}


@pytest.mark.parametrize("path", EARLY)
async def test_a_stream_that_fails_at_once_has_a_status(path: str) -> None:
    """Not 200 and an error event: clients look at the status, and try again by it."""
    async with serving() as (_, client):
        answer = await client.post(path, json=EARLY[path])
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
        assert "Grammar" in answer.json()["error"]["message"]
