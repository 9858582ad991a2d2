"""The real Prometheus, configured as is shipped, on a running Baton: it finds every process, and dashboards and alerts get data."""

from __future__ import annotations

import asyncio
import copy
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
import yaml

from tests.support.cluster_process import MODEL, STOP_LIMIT_S, Home, eventually, simulated_args
from tests.support.prometheus import Prometheus, prometheus, tool
from tests.support.promql import selectors
from tests.support.watching import PROMETHEUS, RULES, TARGETS

pytestmark = pytest.mark.integration

KEY = "a-key-of-the-tests-0123"
CHAT = {"x-baton-class": "chat"}
SHIPPED = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
ALERTS = {name: rule["expr"] for name, rule in RULES.items()}
WITHOUT_DATA = {
    "baton-engines: Transfer seconds A": "simulated engines have no NIXL",
    "baton-engines: Bytes transferred A": "likewise",
    "baton-engines: Failures A": "likewise",
    "baton-engines: Failures B": "likewise",
    "baton-engines: Failures C": "likewise",
    "baton-pools: Seconds to start, to wake and to drain B": "no worker sleeps here: the mean of none is none",
}
"""Queries that find nothing on this cluster, and why that is no fault."""


@dataclass(frozen=True)
class Watched:
    """A Baton that was given some load, and the Prometheus that watched."""

    prometheus: Prometheus
    targets: list[dict[str, Any]]
    begin_s: float
    end_s: float

    def values(self, target: dict[str, Any]) -> list[float]:
        """What Grafana would show of a query, in numbers."""
        query = target["expr"].replace("$app", ".*").replace("$__rate_interval", "10s")
        ask = self.prometheus.now if target.get("instant") else lambda q: self.prometheus.between(q, self.begin_s, self.end_s)
        found = [float(value) for series in ask(query) for _, value in series.get("values") or [series["value"]]]
        return [value for value in found if math.isfinite(value)]


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    tool("prometheus")  # before anything is started for nothing
    home = Home()
    try:
        keys, key = home.path / "keys", home.path / "key"
        keys.write_text(f"tests={KEY}\n")
        keys.chmod(0o600)
        key.write_text(KEY)
        args = simulated_args()
        args["router"] |= {"api_keys": {"file": str(keys)}, "queue": {"max_requests": 1}}
        args["prefill"]["max_prefill_tokens"] = 200
        args["objectives"] = {"ttft_s": 5, "tpot_s": 1, "classes": {"chat": {"ttft_s": 3, "tpot_s": 0.5}}}
        # As long as a constant 10 ms, but in a form that tells the autoscaler what to expect before anybody has measured it.
        args["engine"]["simulated"]["timing"] = {"type": "polynomial", "prefill_base_s": 0.01, "decode_base_s": 0.01}
        args["autoscaling"] = {"enabled": True, "dry_run": True, "interval_s": 0.5, "season_s": None}
        server = home.up(args)
        with prometheus(shipped(home.url, str(key))) as found:
            drained = home.baton("drain", *(name for name in instances(home) if name.startswith("prefill")))
            assert drained.returncode == 0, drained.stderr
            told = targets(home)
            ours = {target["labels"]["instance"] for target in told if target["labels"]["job"] == "baton"}
            eventually(lambda: found.targets_up() >= ours, 20.0, "all targets are scraped")
            begin_s = time.time()
            # What is counted per worker and pair is there before it happens: a rate needs one scrape with the zero.
            fresh = "baton_prefix_prompt_tokens_total == 0 and on () (baton_kv_transfers_total == 0)"
            eventually(lambda: found.now(fresh), 10.0, "zeros are scraped")
            asyncio.run(first_requests(home.url))
            # Errors of predictions are not there before: one scrape with the first of them, and one with more.
            begun = "baton_prefix_prompt_tokens_total > 0 and on () (baton_kv_transfers_total > 0)"
            eventually(lambda: found.now(begun), 10.0, "the first requests are scraped")
            asyncio.run(load(home.url))
            eventually(lambda: found.now("rate(baton_refusals_total{reason='invalid'}[10s]) > 0"), 10.0, "so is the last one of all")
            # Plans that are not held: the autoscaler's metrics begin with those, and a graph of seconds needs more than one.
            planned = "count_over_time(baton_scaling_worker_tokens_per_second[10s]) > 3"
            eventually(lambda: found.now(planned), 20.0, "the autoscaler has planned")
            yield Watched(found, told, begin_s, time.time())
        server.interrupt()
        assert server.wait(STOP_LIMIT_S) == 0, server.output
    finally:
        home.close()


def targets(home: Home) -> list[dict[str, Any]]:
    """What Prometheus is told to scrape."""
    told: list[dict[str, Any]] = httpx.get(f"{home.url}/v1/baton/targets", headers={"authorization": f"Bearer {KEY}"}).json()
    return told


def instances(home: Home) -> list[str]:
    """Of Baton's own."""
    return [target["labels"]["instance"] for target in targets(home) if target["labels"]["job"] == "baton"]


def shipped(url: str, key_file: str) -> dict[str, Any]:
    """The shipped configuration with this Baton's address, the key's line uncommented, and everything at every second."""
    config: dict[str, Any] = copy.deepcopy(SHIPPED)
    config["global"] = dict.fromkeys(config["global"], "1s")
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    [job] = config["scrape_configs"]
    [source] = job["http_sd_configs"]
    source["url"] = source["url"].replace("http://127.0.0.1:8000", url)
    source["refresh_interval"] = "1s"
    source["authorization"] = {"type": "Bearer", "credentials_file": key_file}
    return config


def clients(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60.0)


async def status(client: openai.AsyncOpenAI, number: int, **headers: str) -> int:
    """Of the answer to one short request."""
    prompt = f"The first runner hands the baton to the second. {number} " * 8
    try:
        await client.completions.create(model=MODEL, prompt=prompt, max_tokens=12, temperature=0.0, extra_headers=headers)
    except openai.APIStatusError as error:
        return error.status_code
    return 200


async def first_requests(url: str) -> None:
    """One of each class."""
    async with clients(url) as client:
        assert [await status(client, 0), await status(client, 1, **CHAT)] == [200, 200]


async def load(url: str) -> None:
    """Requests of two classes, bursts until some are refused for want of room, and one that is a mistake."""
    async with clients(url) as client:
        for number in range(8):
            assert await status(client, number % 4, **(CHAT if number % 2 else {})) == 200
        answers: list[int] = []
        while answers.count(429) < 4:
            answers += await asyncio.gather(*(status(client, 100 + number) for number in range(12)))
            assert set(answers) <= {200, 429}
            assert len(answers) < 240
        assert await status(client, 0, **{"x-baton-priority": "first"}) == 400


def test_every_process_is_found(watched: Watched) -> None:
    """Controller, router and workers, by the names that `baton status` shows, each with its component and application."""
    active = watched.prometheus.get("targets")["activeTargets"]
    scraped = {(t["labels"]["instance"], t["labels"]["component"], t["health"]) for t in active if t["labels"]["job"] == "baton"}
    told = [target["labels"] for target in watched.targets if target["labels"]["job"] == "baton"]
    assert scraped == {(labels["instance"], labels["component"], "up") for labels in told}
    assert sorted(labels["component"] for labels in told) == ["controller", "router", "worker", "worker"]
    assert {t["labels"]["app"] for t in active if t["labels"]["job"] == "baton"} == {"baton"}


def test_ray_is_found_too(watched: Watched) -> None:
    """Each exporter of Ray's own metrics, of nodes and of what starts them, is listed, answers with them, and is scraped."""
    [addresses] = [target["targets"] for target in watched.targets if target["labels"]["job"] == "ray"]
    assert addresses
    for address in addresses:
        assert re.search(r"^(ray|autoscaler)_\w+\{", httpx.get(f"http://{address}/metrics").text, re.MULTILINE)
    active = watched.prometheus.get("targets")["activeTargets"]
    scraped = sorted((t["labels"]["instance"], t["health"]) for t in active if t["labels"]["job"] == "ray")
    assert scraped == sorted((name, "up") for name in addresses)


def test_every_panel_shows_something(watched: Watched) -> None:
    """Each query of each panel parses and has values after a short load; those listed as exceptions parse, and really have none."""
    empty = {name for name, target in TARGETS.items() if not watched.values(target)}
    assert empty == set(WITHOUT_DATA)


def test_every_alert_is_fed(watched: Watched) -> None:
    """Each alert's expression parses, and every series it reads is there: one that reads nothing never fires."""
    rules = [rule for group in watched.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: (rule["health"], rule.get("lastError")) for rule in rules} == dict.fromkeys(ALERTS, ("ok", None))
    for expression in ALERTS.values():
        watched.prometheus.now(expression)
    read = {selector for expression in ALERTS.values() for selector in selectors(expression)}
    assert {selector for selector in read if not watched.prometheus.now(selector)} == set()


def test_a_refusal_is_seen_and_nothing_else(watched: Watched) -> None:
    """Of a sound cluster that was asked for too much, the alerts say that, and nothing of processes or of KV."""
    said = {name for name, expression in ALERTS.items() if watched.prometheus.now(expression)}
    assert "BatonRefusals" in said
    assert said <= {"BatonRefusals", "BatonGoodputLow", "BatonFirstTokensLate", "BatonPredictionsBiased", "BatonDecisionsSlow"}
