"""The global load balancer over real sockets: caches, predictions, refusals and explanations, from engines to clients.

Unit tests hold each part to its rule; here it is seen that the parts have each other's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.ids import WorkerId
from core.metrics.exposition import ReadingCollector
from engine.sim_timing import PolynomialTime
from router.dispatcher import Dispatcher
from router.limits import Limits
from router.queue import QueueLimits
from router.readings import readings
from router.timeline import Made
from tests.contract.engine_contract import ask, prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import MiniCluster, MiniRouter
from tests.support.router_server import MODEL, RouterServer, router_server

pytestmark = pytest.mark.integration

BLOCK = 16
LONG = 40 * BLOCK
"""Tokens of a prompt that nobody would like to compute twice."""
STEPS = PolynomialTime(prefill_base_s=0.004, prefill_token_s=1e-5, decode_base_s=0.004)
"""Slow enough to be measured on a busy machine."""


def made(router: MiniRouter, name: str) -> Made:
    """The one decision on a request."""
    [decided] = router.timeline(name).decisions
    return decided


def went_to(router: MiniRouter, name: str) -> WorkerId:
    """Who computed a request's prompt."""
    chosen = made(router, name).decision.chosen
    assert chosen is not None
    return chosen.plan.prefill


async def told(router: MiniRouter, prompt: list[int]) -> dict[WorkerId, int]:
    """Who has a whole prompt by its own word, as this router knows it: waits until somebody does."""
    keys = router.foresight.prefixes.keys(ask("asked", prompt, 1)).by_size[BLOCK]
    index = router.foresight.prefixes.index
    await assert_eventually(lambda: len(keys) in index.hits(keys).values(), 10.0, "some worker has told that it has the prompt")
    return {worker: blocks * BLOCK for worker, blocks in index.hits(keys).items()}


# -- what is cached where ----------------------------------------------------------------------------------------------------


async def test_a_follow_up_goes_where_its_history_is(cluster: MiniCluster) -> None:
    """Also when it is longer than what went before; the decision says what was known, and the engine finds as much."""
    await cluster.start(policy="baton")
    router, histories = cluster.router, {f"{number}": prompt_of(LONG, number) for number in range(6)}
    for name, history in histories.items():
        router.send(name, history, 4)
        await router.finished(name)
        assert made(router, name).ask.hits == {}
        await told(router, history)
    for name, history in histories.items():
        next_turn = f"{name} again"
        router.send(next_turn, [*history, *router.tokens(name), *prompt_of(30, 17)], 4)
        await router.finished(next_turn)
        hits = made(router, next_turn).ask.hits
        assert went_to(router, name) in hits
        assert hits[went_to(router, next_turn)] >= LONG
        assert router.timeline(next_turn).cached_tokens >= LONG


async def test_a_router_that_starts_later_knows_what_is_cached(cluster: MiniCluster) -> None:
    """The workers tell it; from then on it decides as the one before it did."""
    await cluster.start(policy="baton")
    first, prompts = cluster.router, [prompt_of(LONG, number) for number in range(3)]
    for number, prompt in enumerate(prompts):
        first.send(f"{number}", prompt, 4)
        await first.finished(f"{number}")
    known = [await told(first, prompt) for prompt in prompts]
    await first.vanish()
    late = MiniRouter("router-late", cluster.directory, 7, policy="baton")
    cluster.routers.append(late)
    await assert_eventually(lambda: len(late.dispatcher.view()) == 4, 10.0, "the new router reaches every worker")
    for number, (prompt, holders) in enumerate(zip(prompts, known, strict=True)):
        assert await told(late, prompt) == holders
        late.send(f"again-{number}", prompt, 4)
        await late.finished(f"again-{number}")
        assert set(made(late, f"again-{number}").ask.hits) == set(holders)
        assert went_to(late, f"again-{number}") in holders
        assert late.timeline(f"again-{number}").cached_tokens > LONG - 2 * BLOCK


async def test_a_worker_that_is_gone_has_nothing(cluster: MiniCluster) -> None:
    """Not for the index, nor for the next decision."""
    await cluster.start(policy="baton")
    router, prompt = cluster.router, prompt_of(LONG, 1)
    router.send("a", prompt, 4)
    await router.finished("a")
    holders = await told(router, prompt)
    index = router.foresight.prefixes.index
    for name in holders:
        assert index.held_by(name)
        await cluster.worker(name).kill()
    cluster.tell()
    await assert_eventually(lambda: not any(index.held_by(name) for name in holders), 10.0, "the dead are forgotten")
    router.send("b", prompt, 4)
    await router.finished("b")
    assert not holders.keys() & made(router, "b").ask.hits.keys()
    assert router.timeline("b").cached_tokens == 0


# -- what is predicted -------------------------------------------------------------------------------------------------------


def first_seconds_are_over(cluster: MiniCluster) -> None:
    for worker in cluster.alive:
        worker.ahead_s = 10.0


def all_measured(dispatcher: Dispatcher) -> bool:
    return all(seen.load.step is not None for seen in dispatcher.view().values())


async def test_step_times_are_measured_and_told(cluster: MiniCluster) -> None:
    """Each worker learns what it does itself, and no worker's first seconds count; a router fills up one's half with the other's."""
    await cluster.start(1, 1, timing=STEPS)
    router, prompts = cluster.router, (prompt_of(20, seed) for seed in range(250))
    rounds = 0
    while not all_measured(router.dispatcher):
        rounds += 1
        assert rounds < 30, router.dispatcher.view()
        names = [f"{rounds}-{number}" for number in range(8)]
        for name in names:
            router.send(name, next(prompts), 6)
            await router.finished(name)
        if rounds == 8:
            assert not any(seen.load.step for seen in router.dispatcher.view().values())
            first_seconds_are_over(cluster)
    view, predictor = router.dispatcher.view(), router.foresight.predictor
    prefill, decode = (view[WorkerId(name)].load.step for name in ("prefill-0", "decode-0"))
    assert prefill is not None
    assert decode is not None
    assert decode.decode_s(1, 20) > 0.9 * STEPS.decode_base_s  # a sleep may be longer than it was meant to be, never shorter
    assert prefill.prefill_s(20, 0, 2048) > 0.9 * STEPS.prefill_base_s
    assert not prefill.decode_s(1, 20)
    used = predictor.step_model(view[WorkerId("prefill-0")])
    assert used.prefill_s(20, 0, 2048) == prefill.prefill_s(20, 0, 2048)
    assert used.decode_s(1, 20) == pytest.approx(decode.decode_s(1, 20), rel=0.2)  # as it was told when there was something to fill up


# -- what clients and operators see ------------------------------------------------------------------------------------------


@contextmanager
def exposed(server: RouterServer) -> Iterator[None]:
    """The router's numbers on its ``/metrics``, as the ingress puts them there."""
    collector = ReadingCollector(lambda: readings(server.dispatcher))
    prometheus_client.REGISTRY.register(collector)
    try:
        yield
    finally:
        prometheus_client.REGISTRY.unregister(collector)


async def complete(client: httpx.AsyncClient, prompt: str, tokens: int = 8, stream: bool = False, **headers: str) -> httpx.Response:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": stream}
    return await client.post("/v1/completions", json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


async def test_a_decision_can_be_asked_for() -> None:
    """In short in the answer's headers, in full by the request's id: what was predicted of each candidate, and what then happened."""
    async with router_server({"timing": STEPS}, policy="baton") as server, httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
        history = "The first runner hands the baton to the second. " * 12
        for _ in range(2):
            answer = await complete(client, history, 8, x_baton_ttft_s="20", x_baton_tpot_s="2")
            assert answer.status_code == 200, answer.text
            await server.nothing_left()
        short = dict(part.split("=") for part in answer.headers["x-baton-decision"].split())
        asked = await client.get(f"/v1/baton/decisions/{answer.json()['id']}")
        assert asked.status_code == 200
        [explained] = asked.json()["decisions"]
        assert (explained["outcome"], explained["attempts"]) == ("finished", 1)
        [decided] = explained["decisions"]
        chosen, happened = decided["chosen"], explained["happened"]
        assert int(short["candidates"]) == len(decided["candidates"]) == 2
        assert float(short["ttft_s"]) == pytest.approx(chosen["ttft_s"], rel=1e-3)
        assert chosen == min(decided["candidates"], key=lambda candidate: candidate["cost"])
        assert decided["objective"] == {"ttft_s": 20.0, "tpot_s": 2.0}
        for candidate in decided["candidates"]:
            terms = candidate["terms_s"]
            assert set(terms) == {"queue", "load", "prefill", "transfer", "admit", "decode", "interference", "misses"}
            assert sum(terms.values()) == pytest.approx(candidate["cost"], rel=1e-3, abs=1e-4)
            assert (terms["transfer"] > 0) is candidate["split"]
        assert chosen["cached_tokens"]["prefill"] == happened["cached_tokens"] > 0
        assert {chosen["prefill"], chosen["decode"]} == {happened["prefill_worker"], happened["decode_worker"]}
        assert happened["output_tokens"] == 8
        assert happened["ttft_s"] > STEPS.prefill_base_s * 0.9
        unknown = await client.get("/v1/baton/decisions/cmpl-none")
        assert unknown.status_code == 404


async def test_predictions_are_held_against_what_happened() -> None:
    """In ``/metrics``: how many there were of each quantity, and how far off."""
    async with router_server({"timing": STEPS}, policy="baton") as server, httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
        for number in range(5):
            assert (await complete(client, f"{number} is a number")).status_code == 200
        await server.nothing_left()
        with exposed(server):
            text = (await client.get("/metrics")).text
        counts: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "baton_prediction_error_ratio_count":
                    counts[sample.labels["quantity"]] = counts.get(sample.labels["quantity"], 0.0) + sample.value
        assert {quantity: counts[quantity] for quantity in ("ttft", "tpot", "output_tokens")} == dict.fromkeys(
            ("ttft", "tpot", "output_tokens"), 5.0
        )


async def measured(server: RouterServer, client: httpx.AsyncClient) -> None:
    """Asks for answers until every worker has told what its steps take: nobody is refused by guesses."""
    for number in range(60):
        await complete(client, f"{number} is a number", 4)
        if number == 20:
            first_seconds_are_over(server.cluster)
        if all_measured(server.dispatcher):
            return
    raise AssertionError(f"not measured: {server.dispatcher.view()}")


HOPELESS = "0.001"
"""Seconds to the first token: a quarter of what one step takes."""


async def test_what_can_never_be_kept_is_refused_early() -> None:
    """With 400, why, and what to ask for; not with a time to come again, at which it would be as wrong. Other requests are served. Not
    before anything was measured."""
    async with router_server({"timing": STEPS}) as server, httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
        assert (await complete(client, "too soon to tell", x_baton_ttft_s=HOPELESS)).status_code == 200
        await measured(server, client)
        for stream in (False, True):
            refused = await complete(client, "too late", stream=stream, x_baton_ttft_s=HOPELESS)
            assert refused.status_code == 400, refused.text
            assert "retry-after" not in refused.headers
            message = refused.json()["error"]["message"]
            assert "the prompt is too long for its promise" in message
            assert "promised within 0.001 s" in message
            assert "`x-baton-ttft-s`" in message
            why = (await client.get(f"/v1/baton/decisions/{refused.headers['x-baton-request']}")).json()["decisions"]
            assert [(part["outcome"], len(part["decisions"])) for part in why] == [("failed", 1)]
        assert (await complete(client, "in time", x_baton_ttft_s="30")).status_code == 200
        assert (await complete(client, "whenever")).status_code == 200
        await server.nothing_left()


async def test_who_would_rather_be_late_is_let_in() -> None:
    """``objectives.refuse: never``."""
    never = Limits(queue=QueueLimits(refuse_hopeless=False))
    async with router_server({"timing": STEPS}, limits=never) as server, httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
        await measured(server, client)
        answer = await complete(client, "too late", x_baton_ttft_s=HOPELESS)
        assert answer.status_code == 200, answer.text
        await server.nothing_left()
