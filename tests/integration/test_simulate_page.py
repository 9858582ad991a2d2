"""The page of `baton simulate` in a real browser: what it shows on light and dark screens, and that it loads nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from playwright.async_api import expect

from core.config import BatonConfig
from deploy.synthetic_words import synthetic_of
from simulation.report_page import page
from simulation.report_rows import title
from simulation.run import Simulation
from tests.support.chromium import chromium, watched_page

pytestmark = [pytest.mark.integration]

CONFIG = {"model": "<b>model</b>", "engine": {"step_times": "h100-llama-3.1-8b-tp1"}, "objectives": {"ttft_s": 1.0}}


async def test_the_page_shows_its_plots_on_light_and_dark_screens_and_asks_for_nothing(tmp_path: Path) -> None:
    """All six plots can be seen, on a ground that is as light or dark as the screen; names are text; the file itself is all it asks for."""
    trace = synthetic_of("rate=5 isl=500 osl=20 seconds=4").trace(random.Random(1))
    report = Simulation(config=BatonConfig.model_validate(CONFIG), trace=trace).run(lambda moment, offered: None)
    file = tmp_path / "report.html"
    file.write_text(page(report))
    grounds = []
    async with chromium() as browser:
        for scheme in ("light", "dark"):
            async with watched_page(browser, color_scheme=scheme) as watched:
                await watched.page.goto(file.as_uri())
                await expect(watched.page.get_by_role("heading", level=1)).to_have_text(title(report))
                plots = watched.page.get_by_role("img")
                await expect(plots).to_have_count(6)
                for number in range(6):
                    await expect(plots.nth(number)).to_be_visible()
                grounds.append(await watched.page.evaluate("getComputedStyle(document.body).backgroundColor"))
                assert watched.asked == [file.as_uri()]
                assert watched.complaints == []
    assert grounds == ["rgb(255, 255, 255)", "rgb(22, 24, 28)"]
