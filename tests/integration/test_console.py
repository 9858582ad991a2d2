"""The console in a real browser, over a real router with simulated workers: what it shows, how it is used, and what it never does."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, expect

from core.router_config import ApiKeysConfig
from core.worker import Role
from router.keys import KeyRing
from tests.support.chromium import Watched, chromium, watched_page
from tests.support.console_stage import ENGINE, Controller, ask, console_of_models, console_server
from tests.support.router_server import SIMULATED, RouterServer

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

KEY = "a-key-0123456789"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
PROMPT = list(range(16, 316))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def staged() -> AsyncIterator[tuple[RouterServer, Controller]]:
    """Two workers of each kind, under a policy that hands every request over."""
    controller = Controller()
    async with console_server(status=controller.status, scaling=controller.scaling) as server:
        yield server, controller


@pytest.fixture
def server(staged: tuple[RouterServer, Controller]) -> RouterServer:
    return staged[0]


@pytest.fixture
def controller(staged: tuple[RouterServer, Controller]) -> Controller:
    staged[1].calm()
    return staged[1]


@contextlib.asynccontextmanager
async def console(
    browser: Browser, server: RouterServer | str, path: str = "/console", *, calm: bool = True, **options: Any
) -> AsyncIterator[Watched]:
    """The open page, of a server or at an address. Whatever it does, it asks its own router only; ``calm``: and the browser has nothing to
    complain of."""
    url = server if isinstance(server, str) else server.url
    async with watched_page(browser, **options) as watched:
        await watched.page.goto(f"{url}{path}")
        yield watched
        assert watched.asked
        assert [url_ for url_ in watched.asked if not url_.startswith(f"{url}/")] == []
        if calm:
            assert watched.complaints == []


async def test_pools_and_workers_are_shown(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """Each pool with how many of the wanted are ready, and its workers by name with state, load and KV."""
    async with console(browser, server) as watched:
        for role in Role:
            pool = watched.page.get_by_role("region", name=f"{role} makes" if role is Role.DECODE else f"{role} computes")
            await expect(pool).to_contain_text("2 of 2 ready")
            for number in range(2):
                row = pool.get_by_role("row").filter(has_text=f"{role}-{number}")
                await expect(row).to_contain_text("ready")
                await expect(row.get_by_role("meter", name="KV used")).to_have_attribute("aria-valuenow", "0")
        await expect(watched.page.get_by_role("status")).to_contain_text("live from router-0")
        await expect(watched.page.locator("#scaling")).to_contain_text("Autoscaling is off")


async def test_a_request_appears_with_its_phases(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """While it runs and after; its bar says in words what it shows, and opened by the keyboard it says more."""
    async with console(browser, server) as watched:
        answer = await ask(server, PROMPT, 12, **{"x-request-id": "phases"})
        assert answer.status_code == 200
        row = watched.page.locator("#requests > li").filter(has_text="cmpl-phases")
        said = re.compile("^finished: .*prefill .*hand-off .*decode .*first token after")
        await expect(row.get_by_role("img")).to_have_attribute("aria-label", said)
        await expect(row).to_contain_text("→ decode-")
        await row.locator("summary").focus()
        await watched.page.keyboard.press("Enter")
        await expect(row.locator(".facts")).to_contain_text("300 prompt tokens")
        await expect(row.locator(".facts")).to_contain_text("of KV moved")
        for part in ("prefill", "transfer", "decode"):
            await expect(row.get_by_role("row").filter(has=watched.page.get_by_role("rowheader", name=part, exact=True))).to_be_visible()


async def test_what_is_open_stays_open_and_focused(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """New requests come in above it, every second all is drawn anew: whoever reads or types is not disturbed."""
    async with console(browser, server) as watched:
        await ask(server, PROMPT, 2, **{"x-request-id": "read"})
        summary = watched.page.locator("#requests > li").filter(has_text="cmpl-read").locator("summary")
        await summary.focus()
        await watched.page.keyboard.press("Space")
        for number in range(3):
            await ask(server, PROMPT, 2, **{"x-request-id": f"later-{number}"})
        await expect(watched.page.locator("#requests > li").filter(has_text="cmpl-later-2")).to_be_visible()
        await expect(summary).to_be_focused()
        await expect(watched.page.locator("#requests > li").filter(has_text="cmpl-read").locator(".facts")).to_be_visible()


async def test_hand_offs_are_flows(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """A band per pair, as wide as its bytes or its count; the same in words and in a table for who sees no picture."""
    async with console(browser, server) as watched:
        for _ in range(3):
            assert (await ask(server, PROMPT, 2)).is_success
        page = watched.page
        await expect(page.locator("#flows path.band").first).to_be_visible()
        await expect(page.locator("#flows svg")).to_have_attribute("aria-label", _HANDOFFS)
        by_bytes = page.get_by_role("radio", name="bytes")
        await by_bytes.focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.get_by_role("radio", name="count")).to_be_checked()
        await page.get_by_text("In numbers").press("Enter")
        rows = page.get_by_role("region", name="Hand-offs in numbers").get_by_role("row")
        await expect(rows.nth(1)).to_contain_text("prefill-")
        await expect(rows.nth(1)).to_contain_text("MB")
        assert await rows.count() - 1 == await page.locator("#flows path.band").count()


async def test_a_decision_opens_by_keyboard(browser: Browser) -> None:
    """What was chosen and against what, and each candidate's predicted cost term by term."""
    async with console_server(1, 1, policy="baton") as server, console(browser, server) as watched:
        assert (await ask(server, PROMPT, 4, **{"x-request-id": "why"})).is_success
        row = watched.page.locator("#decisions > li").filter(has_text="cmpl-why")
        await expect(row.locator(".why")).to_contain_text("the next best costs")
        await row.locator("summary").focus()
        await watched.page.keyboard.press("Enter")
        table = row.get_by_role("table")
        for column in ("queue", "load", "prefill", "transfer", "admit", "decode", "interference", "misses", "Cost"):
            await expect(table.get_by_role("columnheader", name=column, exact=True)).to_be_visible()
        await expect(table.get_by_role("row").filter(has_text="all on decode-0")).to_be_visible()
        await expect(table.get_by_role("row").filter(has_text="prefill-0 → decode-0")).to_be_visible()
        await expect(table.get_by_role("row").filter(has_text="(taken)")).to_have_count(1)
        await expect(row.locator(".outcome")).to_contain_text("predicted")


async def test_scaling_is_drawn_and_told(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """Demand, forecast and capacity as lines, each at its time, what was done in words; when it is not known any more, that."""
    controller.scale()
    async with console(browser, server) as watched:
        panel = watched.page.locator("#scaling")
        for role in Role:
            pool = panel.locator(f".scaled.{role}")
            await expect(pool).to_contain_text(re.compile(r"demand [\d,]+ · forecast [\d,]+ in 60.s"), timeout=10_000)
            for line in ("demand", "forecast", "capacity"):
                await expect(pool.locator(f"polyline.{line}")).to_have_count(1)
            ends = {line: await pool.locator(f"polyline.{line}").evaluate(_ENDS) for line in ("demand", "forecast")}
            now = float(await pool.locator("line.now").get_attribute("x1") or 0)
            assert ends["demand"][1] == pytest.approx(now, abs=0.2)
            assert ends["forecast"][0] > ends["demand"][0]
            assert ends["forecast"][1] > now
        assert controller.plans is not None
        assert not controller.plans[-1].actions, "the newest plan asks for nothing: what is shown is of those before"
        await expect(panel.locator(".told")).to_contain_text(re.compile(r"\d\d:\d\d:\d\d +add \d to (prefill|decode)"))
        controller.plans = None
        await expect(panel).to_contain_text("is not known now", timeout=10_000)


async def test_a_worker_that_dies(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """Its row says so at once, in words and above all else; then the controller's reason stays, though the worker is gone."""
    async with console(browser, server) as watched:
        doomed = await server.cluster.add_worker("decode-9", Role.DECODE, **{**SIMULATED, **ENGINE})
        server.cluster.tell()
        row = watched.page.get_by_role("row").filter(has_text="decode-9")
        await expect(row).to_contain_text("ready")
        await doomed.kill()
        await expect(row).to_contain_text("cannot be reached")
        notices = watched.page.get_by_label("What is wrong")
        await expect(notices).to_contain_text("decode-9 cannot be reached")
        controller.said["failures"] = [{"worker": "decode-9", "at": 1.0, "reason": "its process ended: exit code 137", "was_ready": True}]
        server.cluster.tell()
        await expect(notices).to_contain_text("exit code 137")
        await expect(row).to_have_count(0)


async def test_an_empty_cluster(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """Is said to be one; workers that start are shown with how far they are, before any router knows them."""
    async with console(browser, server) as watched:
        server.cluster.directory.tell([])
        await expect(watched.page.locator("#summary")).to_contain_text("The cluster is empty")
        controller.said["workers"] = [{"worker": "prefill-new", "role": "prefill", "state": "starting", "phase": "loading the model"}]
        await expect(watched.page.locator("#summary")).to_contain_text("1 worker starting")
        await expect(watched.page.get_by_role("row").filter(has_text="prefill-new")).to_contain_text("starting: loading the model")
        await expect(watched.page.get_by_label("What is wrong")).to_contain_text("decode is short of workers: 0 of 2 ready")
        server.cluster.tell()
        await expect(watched.page.locator("#summary")).to_contain_text("2 prefill workers and 2 decode workers")


async def test_a_lost_router(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """Said plainly, with how old is what is still shown; and found again without anybody doing anything."""
    async with console(browser, server, calm=False) as watched:
        status = watched.page.get_by_role("status")
        await expect(status).to_contain_text("live")
        await watched.page.context.set_offline(True)
        await expect(status).to_contain_text("router lost: it cannot be reached; what is below is")
        await expect(watched.page.get_by_role("row").filter(has_text="prefill-0")).to_be_visible()
        await watched.page.context.set_offline(False)
        await expect(status).to_contain_text("live from router-0")


async def test_the_key_is_asked_for(browser: Browser) -> None:
    """The page comes without one and shows nothing; a wrong one is said to be wrong; the right one opens, for this tab only."""
    keys = KeyRing(ApiKeysConfig(env="K"), environment={"K": f"alice={KEY}"})
    async with console_server(1, 1, keys=keys) as server, console(browser, server, calm=False) as watched:
        page, field = watched.page, watched.page.get_by_label("API key")
        await expect(field).to_be_focused()
        await expect(page.get_by_role("main")).to_be_hidden()
        await page.keyboard.type("not-the-key-0123456789")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("does not know this key")
        await page.keyboard.type(KEY)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("row").filter(has_text="prefill-0")).to_be_visible()
        assert [url for url in watched.asked if KEY in url] == []
        assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        await page.reload()
        await expect(page.get_by_role("row").filter(has_text="prefill-0")).to_be_visible()
        async with console(browser, server, calm=False) as another:
            await expect(another.page.get_by_label("API key")).to_be_visible()


async def test_several_models_are_chosen_from_a_list(browser: Browser) -> None:
    """By its label and by keyboard, with the focus left on it; all that is shown is the chosen one's, the address is a link to it, and a
    name is text."""
    names = ("demo", f"code & <b>{HOSTILE}")
    async with console_of_models(names) as (url, [first, _]), console(browser, url, "/console/") as watched:
        page = watched.page
        choice = page.get_by_label("Model", exact=True)
        await expect(choice).to_have_value("demo")
        assert await choice.locator("option").all_inner_texts() == list(names)
        assert (await ask(first, PROMPT, 2, **{"x-request-id": "of-the-first"})).is_success
        await expect(page.locator("#requests > li").filter(has_text="cmpl-of-the-first")).to_be_visible()
        await expect(page.get_by_role("row").filter(has_text="decode-2")).to_have_count(0)
        await choice.focus()
        await page.keyboard.press("ArrowDown")
        await expect(page.get_by_role("row").filter(has_text="decode-2")).to_contain_text("ready")
        await expect(page.locator("#requests > li").filter(has_text="cmpl-of-the-first")).to_have_count(0)
        await expect(choice).to_have_value(names[1])
        await expect(choice).to_be_focused()
        await page.reload()
        await expect(page.get_by_role("row").filter(has_text="decode-2")).to_contain_text("ready")
        await expect(choice).to_have_value(names[1])
        await choice.select_option("demo")
        await expect(page.get_by_role("row").filter(has_text="decode-2")).to_have_count(0)
        assert await page.title() == "Baton"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_list_of_models_can_be_read(browser: Browser, scheme: Any) -> None:
    """In light and dark, and on a screen of 360 pixels with a long name; it is reached with Tab, with a ring."""
    names = ("demo", "a-model-with-a-name-" + "x" * 60)
    options = {"color_scheme": scheme, "viewport": {"width": 360, "height": 740}}
    async with console_of_models(names) as (url, _), console(browser, url, f"/console?model={names[1]}", **options) as watched:
        page = watched.page
        choice = page.get_by_label("Model", exact=True)
        await expect(choice).to_have_value(names[1])
        found = await page.evaluate(_CONTRASTS)
        assert "Model" in found["texts"]
        assert found["poor"] == []
        assert await page.evaluate(_CHOICE_CONTRAST) >= 4.5
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        await expect(choice).to_be_focused()
        assert (await page.evaluate(_FOCUSED))["ring"]


async def test_one_model_is_no_choice(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """No list, only its name."""
    async with console(browser, server) as watched:
        await expect(watched.page.locator("#model")).to_have_text("demo")
        await expect(watched.page.get_by_label("Model", exact=True)).to_be_hidden()


async def test_hostile_names_stay_text(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """Whatever a model, a worker or a reason is called: it is shown as it is written, and nothing of it becomes part of the page."""
    worker = {"worker": HOSTILE, "role": "decode", "state": "starting", "phase": HOSTILE}
    controller.said |= {"model": HOSTILE, "workers": [worker], "failures": [{"worker": HOSTILE, "at": 1.0, "reason": HOSTILE}]}
    async with console(browser, server) as watched:
        await ask(server, PROMPT, 2, **{"x-request-id": HOSTILE.replace(" ", "/")})  # which is a name that a client may choose
        for rows in ("#requests", "#decisions"):
            await expect(watched.page.locator(f"{rows} summary[title*=onerror]")).to_be_visible()
        await expect(watched.page.locator("#model")).to_have_text(HOSTILE)
        await expect(watched.page.get_by_role("row").filter(has_text="onerror")).to_be_visible()
        await expect(watched.page.get_by_label("What is wrong")).to_contain_text(HOSTILE)
        assert await watched.page.title() == "Baton"
        assert await watched.page.locator("main img, body script").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_can_be_read(browser: Browser, server: RouterServer, controller: Controller, scheme: Any) -> None:
    """In light and dark: a contrast of 4.5 to 1 at least between each text and what is behind it (WCAG AA)."""
    controller.said["failures"] = [{"worker": "decode-7", "at": 1.0, "reason": "died", "was_ready": True}]
    controller.scale()
    async with console(browser, server, color_scheme=scheme) as watched:
        assert (await ask(server, PROMPT, 4, **{"x-request-id": f"read-{scheme}"})).is_success
        await expect(watched.page.locator("#decisions > li").filter(has_text=f"read-{scheme}")).to_be_visible()
        await _open_all(watched)
        await _scaling_is_drawn(watched)
        found = await watched.page.evaluate(_CONTRASTS)
        assert len(found["texts"]) > 40
        assert {"demand", "forecast", "capacity"} <= set(found["texts"])
        assert found["poor"] == []
        assert (found["ground"] > 0.5) is (scheme == "light")


async def test_a_narrow_screen(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """360 pixels, everything opened, long names: the page never scrolls sideways, and what is wider scrolls by itself."""
    controller.said["workers"] = [{"worker": "decode-" + "x" * 80, "role": "decode", "state": "starting", "phase": "y" * 80}]
    controller.scale()
    async with console(browser, server, viewport={"width": 360, "height": 740}) as watched:
        assert (await ask(server, PROMPT, 4, **{"x-request-id": "narrow"})).is_success
        await expect(watched.page.locator("#decisions > li").filter(has_text="narrow")).to_be_visible()
        await _open_all(watched)
        await _scaling_is_drawn(watched)
        assert await watched.page.evaluate("document.documentElement.scrollWidth") <= 360
        assert await watched.page.evaluate(_CUT_OFF) == []


async def test_every_control_is_reached_and_seen(browser: Browser, server: RouterServer, controller: Controller) -> None:
    """With Tab alone, from the top to the bottom, each with a visible ring; nothing that can be clicked is left out."""
    controller.scale()
    async with console(browser, server) as watched:
        page = watched.page
        await _scaling_is_drawn(watched)
        assert (await ask(server, PROMPT, 4, **{"x-request-id": "tab"})).is_success
        await expect(page.locator("#decisions > li").filter(has_text="tab")).to_be_visible()
        clickable: int = await page.evaluate(
            "[...document.querySelectorAll('summary, a, main button')].filter(e => e.checkVisibility()).length"
        )
        reached: list[dict[str, Any]] = []
        while len(reached) < 200:
            await page.keyboard.press("Tab")
            reached.append(await page.evaluate(_FOCUSED))
            if reached[-1]["tag"] == "BODY":
                break
        names = [one["tag"] for one in reached]
        assert names[-1] == "BODY", "focus is caught somewhere"
        assert names[0] == "A"
        assert names.count("SUMMARY") + names.count("A") >= clickable
        assert "INPUT" in names
        assert [one for one in reached[:-1] if not one["ring"]] == []
        assert [one["top"] for one in reached[1:-1]] == sorted(one["top"] for one in reached[1:-1])


async def _scaling_is_drawn(watched: Watched) -> None:
    """The page asks once a second, and the controller's answer is kept for some."""
    await expect(watched.page.locator("#scaling .chart svg")).to_have_count(2, timeout=10_000)


async def _open_all(watched: Watched) -> None:
    """Every fold of the page; new ones stay shut."""
    summaries: Locator = watched.page.locator("details:not([open]) > summary:visible")
    for _ in range(min(4, await summaries.count())):
        await summaries.first.click()
    await watched.page.locator("#decisions summary").first.click()


_ENDS = "(line) => [line.points[0].x, line.points[line.points.length - 1].x]"

_HANDOFFS = re.compile(r"\d+ hand-offs, [\d.]+.MB of KV")

_FOCUSED = """() => {
  const one = document.activeElement, style = getComputedStyle(one);
  const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  return { tag: one.tagName, ring, top: Math.round(one.getBoundingClientRect().top + scrollY) };
}"""

_LUMINANCE = """
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
"""

_CUT_OFF = """() => {
  const texts = [...document.querySelectorAll("#scaling svg text")];
  const boxes = texts.map((one) => [one.textContent, one.getBoundingClientRect(), one.ownerSVGElement]);
  const outside = boxes.filter(([, box, svg]) => box.right > svg.getBoundingClientRect().right + 0.5);
  const over = boxes.filter(([, box, svg], place) => boxes[place + 1]?.[2] === svg && box.right > boxes[place + 1][1].left);
  return [...outside, ...over].map(([text]) => text);
}"""
"""Words of the charts that leave their picture, or lie over the next."""

_CONTRASTS = (
    "() => {"
    + _LUMINANCE
    + """
  const texts = [], poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || one.closest("noscript, svg title, .skip") || !one.checkVisibility()) continue;
    const style = getComputedStyle(one), front = parse(one.namespaceURI.endsWith("svg") ? style.fill : style.color).slice(0, 3);
    const [more, less] = [light(front), light(behind(one))].sort((x, y) => y - x);
    const contrast = (more + 0.05) / (less + 0.05);
    texts.push(text);
    if (contrast < 4.5) poor.push([text, contrast]);
  }
  return { texts, poor, ground: light(behind(document.body)) };
}"""
)

_CHOICE_CONTRAST = (
    "() => {"
    + _LUMINANCE
    + """
  const style = getComputedStyle(document.querySelector("#models select"));
  const [more, less] = [style.color, style.backgroundColor].map((colour) => light(parse(colour))).sort((x, y) => y - x);
  return (more + 0.05) / (less + 0.05);
}"""
)
