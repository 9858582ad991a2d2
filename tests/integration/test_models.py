"""Two models in one application under real Ray, with simulated engines: one port, one router, a controller and workers for each."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.support.cluster_process import Home, eventually, simulated_args
from tests.support.scaled_cluster import scaling_args, slowed

pytestmark = pytest.mark.integration

NAMES = ("quick", "slow")
WORKER_CPUS = 0.25
MOST_WORKERS = 5
"""That the budget has room for; four are there from the start."""
SCALING = scaling_args(least=1, most_prefill=3, most_decode=3, relabel=False)


def two_models() -> dict[str, Any]:
    """The same simulated model under two names, both scaled, with room for one worker more than there are, and engines for which a few
    requests are much."""
    one = slowed(simulated_args())
    shared = {name: one.pop(name) for name in ("router", "host")}
    pool = {"count": 1, "num_cpus": WORKER_CPUS}
    models = [{**one, "served_model_name": name, "prefill": pool, "decode": pool, "autoscaling": SCALING} for name in NAMES]
    return {"models": models, "autoscaling": {"gpu_budget": MOST_WORKERS * WORKER_CPUS}, **shared}


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    home = Home()
    try:
        home.up(two_models())
        yield home
    finally:
        home.close()


def complete(home: Home, model: str | None, tokens: int = 16, limit_s: float = 60.0) -> httpx.Response:
    """One completion."""
    asked = {"prompt": "The first runner hands the baton over.", "max_tokens": tokens, "temperature": 0.0}
    return httpx.post(f"{home.url}/v1/completions", json=asked | ({} if model is None else {"model": model}), timeout=limit_s)


def told(home: Home, path: str) -> Any:
    answer = httpx.get(f"{home.url}{path}", timeout=30.0)
    answer.raise_for_status()
    return answer.json()


def ready(home: Home, model: str) -> list[dict[str, Any]]:
    """A model's ready workers, as its controller knows them."""
    return [worker for worker in told(home, f"/v1/baton/status?model={model}")["workers"] if worker["state"] == "ready"]


def test_both_answer_through_one_port(home: Home):
    """Requests of both at once; each is served by workers of its own model, and says which model that was."""
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda n: complete(home, NAMES[n % 2]), range(4)))
    own = {model: {worker["worker"] for worker in ready(home, model)} for model in NAMES}
    assert not own["quick"] & own["slow"]
    for number, answer in enumerate(answers):
        model = NAMES[number % 2]
        assert (answer.status_code, answer.json()["model"]) == (200, model)
        assert answer.json()["usage"]["completion_tokens"] == 16
        [timeline] = told(home, f"/v1/baton/requests/{answer.json()['id']}")["timelines"]
        legs = {timeline[field] for field in ("prefill_worker", "decode_worker")} - {None}
        assert legs
        assert legs <= own[model]


def test_what_is_served_is_said(home: Home):
    """In `/v1/models`, and to whoever asks for something else, or for nothing."""
    assert [card["id"] for card in told(home, "/v1/models")["data"]] == list(NAMES)
    unknown = complete(home, "other")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["type"] == "NotFoundError"
    assert "The model `other` does not exist. Served here are `quick`, `slow`" in unknown.json()["error"]["message"]
    assert complete(home, None).status_code == 400


def test_what_is_told_says_of_which_model(home: Home):
    """Status of both in one answer; one scrape list with an application label for each; one metric for both, with a label."""
    status = told(home, "/v1/baton/status")["models"]
    assert [status[model]["app"] for model in NAMES] == ["baton:quick", "baton:slow"]
    targets = {(target["labels"].get("app"), target["labels"].get("component")) for target in told(home, "/v1/baton/targets")}
    assert {(f"baton:{model}", part) for model in NAMES for part in ("router", "controller", "worker")} <= targets
    page = httpx.get(f"{home.url}/metrics").text
    assert page.count("# TYPE baton_router_requests ") == 1
    assert all(f'baton_router_requests{{model="{model}"}}' in page for model in NAMES)
    printed = home.baton("status", "--url", home.url).stdout
    assert "baton:quick: quick at" in printed
    assert "baton:slow: slow at" in printed


def test_one_model_without_workers_leaves_the_other_alone(home: Home):
    """All of one's workers die in the middle of a stream of the other's: that goes on to its end, further ones are served, and the first
    model is back when its controller has replaced them."""
    lost = ready(home, "quick")
    with ThreadPoolExecutor(1) as client:
        stream = client.submit(complete, home, "slow", 100)
        eventually(lambda: told(home, "/v1/baton/workers?model=slow")["requests"], 20.0, "the stream is under way")
        for worker in lost:
            psutil.Process(worker["pid"]).kill()
        assert complete(home, "slow").status_code == 200
        assert stream.result().json()["usage"]["completion_tokens"] == 100
    assert not {worker["worker"] for worker in ready(home, "slow")} & {worker["worker"] for worker in lost}
    eventually(lambda: complete(home, "quick").status_code == 200, 60.0, "the other model is back")


def test_both_grow_at_once_and_the_budget_holds(home: Home):
    """Each has work for several workers more, and there is room for one. One of them gets it; the other says what held it back; and at no
    time are there more."""

    def workers() -> int:
        status = told(home, "/v1/baton/status")["models"].values()
        return sum(worker["state"] != "gone" for each in status for worker in each.get("workers", ()))

    def plans() -> list[str]:
        return [each["plans"][0]["text"] for each in told(home, "/v1/baton/scaling?last=1")["models"].values() if each.get("plans")]

    def settled() -> bool:
        count = workers()
        assert count <= MOST_WORKERS
        return count == MOST_WORKERS and any("that models share" in plan for plan in plans())

    def answered() -> bool:
        assert workers() <= MOST_WORKERS
        return all(answer.done() for answer in answers)

    with ThreadPoolExecutor(40) as clients:
        answers = [clients.submit(complete, home, model, 60, 600.0) for _ in range(20) for model in NAMES]
        eventually(settled, 60.0, "one has grown, and the other says why it has not")
        eventually(answered, 120.0, "all are answered")
        assert {answer.result().status_code for answer in answers} == {200}
