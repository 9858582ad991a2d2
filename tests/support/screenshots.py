"""``make screenshots``: the pictures of the console in docs/images, of a simulated cluster under a little load."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import msgspec
from playwright.async_api import Browser, Page

from autoscaler.plan import Plan
from autoscaler.policy import PoolLimits, ScalerLimits
from autoscaler.scaler import BatonScaler
from cluster.scaling_actions import RecentActions
from cluster.scaling_course import Course
from tests.support.chromium import chromium, watched_page
from tests.support.console_stage import clients, console_server
from tests.support.router_server import RouterServer
from tests.support.scaling import paper, policy, traffic

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDE = {"width": 1200, "height": 1120}
SHOTS: dict[str, dict[str, Any]] = {
    "console-light": {"color_scheme": "light", "viewport": WIDE},
    "console-dark": {"color_scheme": "dark", "viewport": WIDE},
    "console-narrow": {"color_scheme": "dark", "viewport": {"width": 360, "height": 780}, "device_scale_factor": 2},
}
BUSY_S = 15.0
"""Before the first picture: step times are measured by then, and decisions go by them."""

PREFILL, DECODE = 2, 3
PLANS, PLAN_EVERY_S = 90, 2.0


class Planner:
    """Baton's scaler, planning on paper for as many workers as there are: demand rises, and a second prefill worker is added."""

    def __init__(self) -> None:
        limits = ScalerLimits(PoolLimits(1, PREFILL), PoolLimits(DECODE, DECODE))
        self._fleet = paper(BatonScaler(limits, policy()), 1, DECODE)
        self._asked, self._course = RecentActions(), Course()
        self._fleet.now_s = time.time() - PLANS * PLAN_EVERY_S
        for _ in range(PLANS):
            self._plan()

    def _plan(self) -> Plan:
        done = len(self._fleet.plans)
        requests_per_s = 9 + 9 / (1 + math.exp((25 - done) / 6)) + math.sin(done / 5)
        plan = self._fleet.tick(traffic(requests_per_s, 4000.0), PLAN_EVERY_S)
        self._asked.planned(plan)
        self._course.planned(plan)
        return plan

    async def told(self, last: int) -> dict[str, Any]:
        """As the controller answers."""
        while self._fleet.now_s + PLAN_EVERY_S <= time.time():
            self._plan()
        plans = [msgspec.to_builtins(plan) for plan in reversed(self._fleet.plans[-last:])]
        told = {"actions": msgspec.to_builtins(self._asked.newest()), "course": msgspec.to_builtins(self._course.points)}
        return {"enabled": True, "plans": plans, **told}


async def take() -> None:
    """All of them, of the same minute."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    async with (
        console_server(PREFILL, DECODE, policy="baton", scaling=Planner().told) as server,
        clients(server, 14),
        chromium() as browser,
    ):
        await asyncio.sleep(BUSY_S)
        for name, options in SHOTS.items():
            async with watched_page(browser, **options) as watched:
                await _open(watched.page, server)
                await watched.page.screenshot(path=IMAGES / f"{name}.png")
        await _decision(browser, server)


async def _decision(browser: Browser, server: RouterServer) -> None:
    """One that has ended well, opened."""
    async with watched_page(browser, color_scheme="light", viewport=WIDE) as watched:
        page = watched.page
        await _open(page, server)
        key = await page.locator("#decisions > li").filter(has_text="→").nth(3).get_attribute("data-key")
        row = page.locator(f'#decisions > li[data-key="{key}"]')
        await row.locator("summary").click()
        await row.locator(".outcome").filter(has_not_text="not there yet").wait_for()
        await page.mouse.move(0, 0)
        await row.screenshot(path=IMAGES / "console-decision.png")


async def _open(page: Page, server: RouterServer) -> None:
    await page.goto(f"{server.url}/console")
    await page.locator("#decisions summary").first.wait_for()
    await page.wait_for_timeout(600)  # bars grow to their length


if __name__ == "__main__":
    asyncio.run(take())
