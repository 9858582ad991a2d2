"""How plans are told: by the router's route, and by ``baton scaling``."""

from __future__ import annotations

from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from core.ids import RouterId
from deploy.cmd_scaling import text
from router.dispatcher import Dispatcher
from router.routes import baton_routes

PLAN = {
    "at_s": 1_000_000.0,
    "scaler": "baton",
    "inputs": {"arrivals_per_s": {"value": 12.34567, "age_s": 0.5}, "decoding": {"value": 70.0, "age_s": 3.25}},
    "text": "prefill: 2 ready, 0 starting -> 2\ndo: nothing",
}


def app(**controller: Any) -> FastAPI:
    """A router's routes with this controller behind them."""

    async def status() -> dict[str, Any]:
        return {}

    made = FastAPI()
    made.include_router(baton_routes(RouterId("r"), cast(Dispatcher, None), status, **controller))
    return made


async def ask(made: FastAPI, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://router") as client:
        return await client.get(f"/v1/baton/{path}")


@pytest.mark.parametrize(("path", "asked"), [("scaling", 1), ("scaling?last=7", 7), ("scaling?last=0", 1), ("scaling?last=99999", 200)])
async def test_so_many_plans_as_are_asked_for(path: str, asked: int) -> None:
    """One at the least, and as many as are kept at the most."""

    async def scaling(last: int) -> dict[str, Any]:
        return {"enabled": True, "plans": [PLAN] * last}

    answer = await ask(app(scaling=scaling), path)
    assert len(answer.json()["plans"]) == asked


async def test_without_a_controller_or_a_scaler() -> None:
    """503 while nobody answers; where no scaler runs it is said to be off; a number that is none is the client's mistake."""

    async def away(last: int) -> dict[str, Any]:
        raise TimeoutError

    assert (await ask(app(scaling=away), "scaling")).status_code == 503
    assert (await ask(app(), "scaling")).json() == {"enabled": False, "plans": []}
    assert (await ask(app(), "scaling?last=x")).status_code == 422


def test_a_plan_for_people() -> None:
    """When, what it was told and how old that was, and the plan's own words."""
    lines = text({"enabled": True, "plans": [PLAN, {**PLAN, "inputs": {}}]}).splitlines()
    assert lines[0].endswith(" by baton")
    assert lines[1:5] == ["told: arrivals_per_s 12.35, decoding 70 (3.2 s ago)", *PLAN["text"].splitlines(), ""]  # type: ignore[attr-defined]
    assert lines[6] == "told: nothing"


def test_without_plans() -> None:
    """How to have some is said."""
    assert "autoscaling: {enabled: true}" in text({"enabled": False, "plans": []})
    assert text({"enabled": True, "plans": []}) == "no plan has been made yet"
