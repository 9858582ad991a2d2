"""Debian's Chromium without a screen, as deploy/test_tools.sh fetches it or as it is installed; driven by Playwright."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / "build" / "tools" / "chromium"

QUIET = ("--disable-quic", "--disable-gpu", "--no-pings", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
"""Beside what Playwright gives it: nothing of it asks for anything outside of this machine."""

_FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{fetched}/usr/share/fonts</dir><cachedir>{cache}</cachedir>
<alias><family>system-ui</family><prefer><family>Inter</family><family>DejaVu Sans</family></prefer></alias>
<alias><family>sans-serif</family><prefer><family>Inter</family><family>DejaVu Sans</family></prefer></alias></fontconfig>
"""


def _program() -> Path | None:
    """Where it is; None where it is not."""
    fetched = FETCHED / "usr" / "lib" / "chromium" / "chromium"
    installed = shutil.which("chromium")
    return fetched if fetched.exists() else Path(installed) if installed else None


@contextlib.contextmanager
def _environment() -> Iterator[dict[str, Any]]:
    """Where what was fetched finds its libraries, wherever its packages keep them, and its letters: nothing of it is installed."""
    folders = {str(file.parent) for file in FETCHED.rglob("*.so*") if file.parent.name != "chromium"}
    with tempfile.TemporaryDirectory(prefix="fonts-") as home:
        fonts = Path(home) / "fonts.conf"
        fonts.write_text(_FONTS.format(fetched=FETCHED, cache=home))
        yield {**os.environ, "LD_LIBRARY_PATH": ":".join(sorted(folders)), "FONTCONFIG_FILE": str(fonts)}


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """One browser; it is gone when left. Skips the test where there is none."""
    program = _program()
    if program is None:
        pytest.skip("chromium is not here: run `make test`, which fetches it on Debian and Ubuntu, or install it")
    with _environment() as environment:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=program, env=environment, args=QUIET)
            try:
                yield browser
            finally:
                await browser.close()


class Watched:
    """A page, and whatever it asked for and complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda said: self.complaints.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))


@contextlib.asynccontextmanager
async def watched_page(browser: Browser, **options: Any) -> AsyncIterator[Watched]:
    """A page of a tab that knows nothing of others; ``options`` are Playwright's, e.g. ``color_scheme``."""
    context = await browser.new_context(**options)
    try:
        yield Watched(await context.new_page())
    finally:
        await context.close()
