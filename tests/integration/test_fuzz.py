"""Requests made up from the server's own OpenAPI document, against a real router with simulated workers.

Whatever is sent: no 5xx but those that are meant, no hang, and afterwards nothing is left. The seed is printed; ``BATON_FUZZ_SEED``
repeats a run, ``BATON_FUZZ_S`` makes it longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from router.served_paths import INFERENCE
from tests.support.router_server import MODEL, RouterServer, router_server

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LASTS_S = float(os.environ.get("BATON_FUZZ_S", "30"))
SEED = int(os.environ.get("BATON_FUZZ_SEED", random.SystemRandom().randrange(2**32)))
ANSWERED = 20
"""More requests than that have to be answered, and more than that refused as invalid, or next to nothing was tried."""
MOST_ROUNDS = 40
HANGS_S = 20.0
BATCH = 40
"""Requests made up at once, then sent eight at a time."""
MEANT = {501, 503}
"""Not there, and not now."""
CALM: dict[str, Any] = {"model": MODEL, "max_tokens": 4, "max_completion_tokens": 4, "max_output_tokens": 4}
"""Laid over half of what is made up, or hardly anything would get as far as a worker."""
VALID: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "hello"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hello"}]},
}


def made_up(operation: Any, mode: GenerationMode, number: int) -> list[Any]:
    """Cases for one route; equal for equal seeds."""
    cases: list[Any] = []

    @seed(number)
    @settings(max_examples=BATCH, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def collect(case: Any) -> None:
        cases.append(case)

    with contextlib.suppress(Unsatisfiable):  # nothing is invalid for a route that takes nothing
        collect()
    return cases


def laid_over(path: str, body: Any, chance: random.Random) -> Any:
    """Half of the objects become requests that are valid but for one to three of their fields."""
    if not isinstance(body, dict) or path not in VALID or chance.random() < 0.5:
        return body
    names = chance.sample(sorted(map(str, body)), min(len(body), chance.randrange(1, 4)))
    return {**CALM, **VALID[path], **{name: body[name] for name in names if name in body and name not in CALM}}


async def test_no_request_breaks_the_router() -> None:
    """For as long as there is time, all routes in turn, valid and invalid."""
    print(f"BATON_FUZZ_SEED={SEED}")  # noqa: T201 - shown when it fails
    chance, statuses, strange = random.Random(SEED), Counter[int](), list[str]()
    async with router_server() as server:
        document = schemathesis.openapi.from_dict(server.app.openapi())
        operations = [result.ok() for result in document.get_all_operations() if isinstance(result, Ok)]
        ends_s, rounds = time.monotonic() + LASTS_S, 0
        # A slow machine has time for a route or two only, and may not come upon a valid request there.
        while time.monotonic() < ends_s or (min(statuses[200], statuses[400]) <= ANSWERED and rounds < MOST_ROUNDS):
            rounds += 1
            operation = chance.choices(operations, [8 if o.path in INFERENCE else 1 for o in operations])[0]
            mode = chance.choice([GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
            cases = await asyncio.to_thread(made_up, operation, mode, chance.randrange(2**32))
            places = asyncio.Semaphore(8)
            bodies = [laid_over(operation.path, case.body, chance) for case in cases]
            # Anew every round: a server closes connections nobody uses for seconds, perhaps just as the next request is on its way.
            async with httpx.AsyncClient(base_url=server.url, timeout=HANGS_S) as client:
                answers = await asyncio.gather(*(sent(client, places, c, b, statuses) for c, b in zip(cases, bodies, strict=True)))
            strange += filter(None, answers)
            assert strange == []
        await server.nothing_left(30.0)
        await still_serves(server)
    print(dict(statuses))  # noqa: T201 - likewise
    assert statuses[200] > ANSWERED, statuses
    assert statuses[400] > ANSWERED, statuses


async def sent(client: httpx.AsyncClient, places: asyncio.Semaphore, case: Any, body: Any, statuses: Counter[int]) -> str | None:
    """Sends a case; what is wrong with the answer, if anything, in words that repeat it."""
    case.body = body
    request = case.as_transport_kwargs()
    where = f"{request['method']} {case.formatted_path}"
    options = {name: request[name] for name in ("json", "data", "params", "headers", "content") if request.get(name) is not None}
    if isinstance(options.get("data"), bytes | str):
        options["content"] = options.pop("data")
    async with places:
        try:
            answer = await client.request(request["method"], case.formatted_path, **options)
        except (ValueError, TypeError, httpx.InvalidURL, httpx.LocalProtocolError):
            return None  # HTTP has no way to say it
        except httpx.TransportError as error:
            return f"{where}: {type(error).__name__} {body!r:.2000}"
    statuses[answer.status_code] += 1
    if answer.status_code >= 500 and answer.status_code not in MEANT:
        return f"{where}: {answer.status_code} {answer.text[:300]} {body!r:.2000} {request.get('headers')!r:.500}"
    return None


async def still_serves(server: RouterServer) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=HANGS_S) as client:
        answer = await client.post("/v1/completions", json={"model": MODEL, "prompt": "hello", "max_tokens": 3})
        assert answer.is_success, answer.text
