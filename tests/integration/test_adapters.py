"""LoRA adapters over real sockets: simulated engines that load them, workers that say who goes, routers that know who has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from core.lora_config import LoraConfig
from core.worker import Role
from engine.vllm_outputs import finish_reason
from router.events import FailKind
from tests.contract.engine_contract import prompt_of
from tests.support.eventually import assert_eventually
from tests.support.mini_cluster import SPLITS, MiniCluster
from tests.support.router_server import router_server

SLOTS = 2
PROMPT = prompt_of(100, 1)
TOKENS = 12


@pytest.fixture
def lora(tmp_path: Path) -> LoraConfig:
    """Three adapters, of which two have room."""
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").touch()
    return LoraConfig(directory=str(tmp_path), max_loaded=SLOTS)


@pytest.fixture
async def cluster(lora: LoraConfig) -> AsyncIterator[MiniCluster]:
    """One prefill and two decode workers."""
    cluster = MiniCluster()
    cluster.lora = lora
    await cluster.start(1, 2, adapter_slots=SLOTS, adapter_load_s=0.01)
    yield cluster
    await cluster.nothing_left()
    for worker in cluster.workers.values():
        await worker.close()
    for router in cluster.routers:
        await router.members.close()


async def said(cluster: MiniCluster, name: str, adapter: str | None) -> list[int]:
    cluster.router.send(name, PROMPT, TOKENS, adapter=adapter)
    await cluster.router.finished(name)
    return cluster.router.tokens(name)


async def test_each_says_its_own_over_two_workers(cluster: MiniCluster) -> None:
    """Split or not, loaded before or again: with one adapter always the same, with another always something else."""
    answers = {adapter: await said(cluster, f"first-{adapter}", adapter) for adapter in (None, "a", "b", "c")}
    assert len(set(map(tuple, answers.values()))) == 4
    for adapter, answer in answers.items():
        assert len(answer) == TOKENS
        assert await said(cluster, f"again-{adapter}", adapter) == answer
        timeline = cluster.router.timeline(f"again-{adapter}")
        assert timeline.prefill_worker == "prefill-0"
        assert timeline.cached_tokens == 96, "its own blocks are there, and no other's were taken for them"


async def test_workers_tell_what_they_hold(cluster: MiniCluster) -> None:
    """The least recently used one goes; who has what is known to routers."""
    for name in "abc":
        await said(cluster, name, name)

    def held() -> tuple[str, ...]:
        adapters = cluster.router.dispatcher.view()[cluster.worker("prefill-0").name].load.adapters
        return adapters.names if adapters is not None else ()

    await assert_eventually(lambda: held() == ("b", "c"), 10.0, "the router knows who is there")
    assert {worker.runtime.load.adapters.in_use for worker in cluster.alive if worker.runtime.load.adapters} == {0}


async def test_more_than_fit_at_once_wait_their_turn(cluster: MiniCluster) -> None:
    """Requests with three adapters, all at once, where two have room: all are answered, rightly."""
    alone = {name: await said(cluster, f"alone-{name}", name) for name in "abc"}
    asked = [f"{name}{number}" for number in range(4) for name in "abc"]
    for name in asked:
        cluster.router.send(name, PROMPT, TOKENS, adapter=name[0])
    await cluster.router.finished(*asked)
    assert {name: cluster.router.tokens(name) for name in asked} == {name: alone[name[0]] for name in asked}


async def test_an_answer_goes_on_with_its_adapter(cluster: MiniCluster) -> None:
    """When the worker that decodes it is lost, another one loads the adapter, and no token differs."""
    alone = await said(cluster, "alone", "a")
    for worker in cluster.workers.values():
        if worker.role == "decode":
            worker.gate.shut()
    cluster.router.send("moved", PROMPT, TOKENS, adapter="a")
    await assert_eventually(lambda: cluster.router.timeline("moved").decode_worker is not None, 10.0, "it is handed over")
    lost = cluster.worker(cluster.router.timeline("moved").decode_worker)
    other = next(worker for worker in cluster.alive if worker.role == "decode" and worker is not lost)
    other.gate.open()
    await lost.kill()
    cluster.tell()
    await cluster.router.finished("moved")
    assert cluster.router.tokens("moved") == alone


async def test_one_that_cannot_be_loaded_ends_its_request_alone(cluster: MiniCluster, tmp_path: Path) -> None:
    """With the reason and what to look at; nobody else notices."""
    for name, adapter in (("unknown", "nobody"), ("gone", "c")):
        if adapter == "c":
            (tmp_path / "c" / "adapter_config.json").unlink()
        cluster.router.send(name, PROMPT, TOKENS, adapter=adapter)
        await cluster.router.finished(name)
        assert cluster.router.ends(name) == [finish_reason("error")]
        failure = cluster.router.dispatcher.take_failure(f"client-{name}")
        assert failure is not None
        assert failure.kind is FailKind.ABSENT
        assert f"`{adapter}` cannot be loaded" in failure.reason
        assert "3 workers were asked" in failure.reason
        assert "lora.directory" in failure.reason
    assert len(await said(cluster, "another", "a")) == TOKENS


async def test_where_one_node_lacks_it_another_one_serves(cluster: MiniCluster, tmp_path: Path) -> None:
    """Prefill's node has no such files, nor has one of decode's: requests are answered all the same, by those that have it, and as ever."""
    alone = await said(cluster, "alone", "a")
    cluster.lora = LoraConfig(directory=str(tmp_path / "empty"), max_loaded=SLOTS)
    for name, role in (("prefill-0", Role.PREFILL), ("decode-0", Role.DECODE)):
        await cluster.worker(name).kill()
        await cluster.add_worker(name, role, epoch=2, adapter_slots=SLOTS, adapter_load_s=0.01)
    cluster.tell()
    await cluster.all_up()
    for number in range(4):
        assert await said(cluster, f"asked-{number}", "a") == alone
        assert cluster.router.timeline(f"asked-{number}").decode_worker == "decode-1"
    asked = [f"at-once-{number}" for number in range(6)]
    for name in asked:
        cluster.router.send(name, PROMPT, TOKENS, adapter="a")
    await cluster.router.finished(*asked)
    assert {tuple(cluster.router.tokens(name)) for name in asked} == {tuple(alone)}


async def test_decode_s_node_lacks_what_prefill_s_has(cluster: MiniCluster, tmp_path: Path) -> None:
    """The prompt is computed, and nobody who decodes has the adapter: the prefill worker goes on with it, behind the token that is out."""
    alone = await said(cluster, "alone", "a")
    cluster.lora = LoraConfig(directory=str(tmp_path / "empty"), max_loaded=SLOTS)
    for name in ("decode-0", "decode-1"):
        await cluster.worker(name).kill()
        await cluster.add_worker(name, Role.DECODE, epoch=2, adapter_slots=SLOTS, adapter_load_s=0.01)
    cluster.tell()
    await cluster.all_up()
    assert await said(cluster, "asked", "a") == alone
    assert cluster.router.timeline("asked").decode_worker == "prefill-0"


async def test_an_abort_while_it_is_loaded(cluster: MiniCluster) -> None:
    """The load goes on, the request does not, and nothing is kept for it."""
    worker = cluster.worker("prefill-0")
    worker.gate.shut()
    cluster.router.send("left", PROMPT, TOKENS, adapter="a")
    await assert_eventually(lambda: not worker.runtime.idle, 10.0, "it is there")
    cluster.router.cancel("left")
    await assert_eventually(lambda: worker.runtime.idle, 10.0, "it is gone")
    worker.gate.open()
    assert len(await said(cluster, "next", "a")) == TOKENS
    assert cluster.router.tokens("left") == []


async def test_a_client_chooses_by_the_model_s_name(lora: LoraConfig, tmp_path: Path) -> None:
    """Through vLLM's whole server: listed, found, and answered as itself; 404 for an unknown one, and for one that no worker can load."""
    engine = {"adapter_slots": SLOTS, "adapter_load_s": 0.01}
    async with router_server(engine, policy=SPLITS, lora=lora) as server, httpx.AsyncClient(base_url=server.url, timeout=60.0) as client:

        async def complete(model: str) -> httpx.Response:
            asked = {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0.0, "return_token_ids": True}
            return await client.post("/v1/completions", json=asked)

        said = {}
        for model in ("demo", "a", "b", "a"):
            answer = (await complete(model)).json()
            assert answer["model"] == model
            said[model] = answer["choices"][0]["token_ids"]
        assert len({tuple(tokens) for tokens in said.values()}) == 3
        chat = {"model": "a", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        assert (await client.post("/v1/chat/completions", json=chat)).json()["model"] == "a"
        listed = (await client.get("/v1/models")).json()["data"]
        assert {card["id"]: card["parent"] for card in listed} == {"demo": None, "a": "demo", "b": "demo", "c": "demo"}
        for unknown in ("nobody", "../a", str(tmp_path / "a")):
            refused = await complete(unknown)
            assert (refused.status_code, refused.json()["error"]["type"]) == (404, "NotFoundError")
        held = (await client.get("/v1/baton/workers")).json()["workers"]
        assert {tuple(worker["adapters"]) for worker in held} == {("b", "a")}
        for worker in server.cluster.workers.values():
            worker.engine._config = replace(worker.engine._config, adapter_slots=0)  # as if its files were torn
        broken = await complete("c")
        assert broken.status_code == 404
        assert "`c` cannot be loaded" in broken.text
        streamed = {"model": "c", "prompt": PROMPT, "max_tokens": 8, "stream": True}
        assert (await client.post("/v1/completions", json=streamed)).status_code == 404
        assert (await complete("a")).json()["choices"][0]["token_ids"] == said["a"]
        await server.nothing_left()
