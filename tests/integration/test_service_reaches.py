"""What the gate settles for a request reaches the dispatcher through vLLM's whole server, whatever the request is made of."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from vllm.v1.engine import EngineCoreRequest

from core.objectives_config import Objectives
from router.objectives import Promises
from router.service import WantedService, current_service
from tests.support.router_server import MODEL, router_server

pytestmark = pytest.mark.integration

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
REQUESTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "a completion": ("/v1/completions", {"prompt": "hello", "max_tokens": 2}, 1),
    "several answers": ("/v1/completions", {"prompt": "hello", "max_tokens": 2, "n": 3}, 3),
    "a list of prompts": ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2, "n": 2}, 4),
    "a stream of several prompts": ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2, "stream": True}, 2),
    "a chat": ("/v1/chat/completions", CHAT, 1),
    "a streamed chat": ("/v1/chat/completions", {**CHAT, "stream": True, "n": 2}, 2),
    "a response": ("/v1/responses", {"input": "hello", "max_output_tokens": 2}, 1),
    "a streamed response": ("/v1/responses", {"input": "hello", "max_output_tokens": 2, "stream": True}, 1),
    "Anthropic's": ("/v1/messages", {**CHAT, "stream": True}, 1),
}


async def test_it_is_there_when_the_dispatcher_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each of the engine requests that one HTTP request makes; and vLLM's server has not been told what priority was asked for."""
    promises = Promises(Objectives.model_validate({"classes": {"flex": {"ttft_s": 60.0, "priority": 50}}}))
    seen: list[tuple[WantedService, int]] = []
    async with router_server(promises=promises) as server, httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
        add = server.dispatcher.add

        def adding(request: EngineCoreRequest, *more: Any) -> None:
            seen.append((current_service(), request.priority))
            add(request, *more)

        monkeypatch.setattr(server.dispatcher, "add", adding)
        for name, (path, body, requests) in REQUESTS.items():
            seen.clear()
            asked = {"model": MODEL, **body, "service_tier": "flex", "priority": 60}
            answer = await client.post(path, json=asked, headers={"x-baton-tenant": "team-a", "x-baton-tpot-s": "0.5"})
            assert answer.status_code == 200, answer.text
            assert (answer.headers["x-baton-class"], answer.headers["x-baton-priority"]) == ("flex", "60")
            assert seen == [(WantedService("team-a", "flex", 60, ttft_s=60.0, tpot_s=0.5), 0)] * requests, name
        await server.nothing_left()
