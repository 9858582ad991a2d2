"""``baton top`` without a terminal: what a frame says, that it fits, and what is made of several routers' answers."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from deploy.top_frame import frame
from deploy.top_routers import TopRouters

WORKER = {
    "worker": "decode-0",
    "role": "decode",
    "state": "ready",
    "phase": "",
    "running": 3,
    "waiting": 1,
    "prompt_tokens": 40,
    "free_blocks": 25,
    "num_blocks": 100,
    "leased_blocks": 0,
    "stranded_blocks": 0,
    "refused": "",
}
FLOW = {"prefill": "prefill-0", "decode": "decode-0", "count": 3, "transfer_bytes": 5_000_000, "transfer_s": 0.1, "recomputed": 1}
REQUEST = {
    "request": "r",
    "client_request": "cmpl-one",
    "arrived_at": 1000.0,
    "outcome": "finished",
    "took_s": 2.0,
    "prefill_worker": "prefill-0",
    "decode_worker": "decode-0",
    "parts_s": {"queue": 0.5, "prefill": 0.5, "decode": 1.0},
}
CHOSEN = {"prefill": "prefill-0", "decode": "decode-0", "cost": 0.5}
DECISION = {
    "client_request": "cmpl-one",
    "decided_at": 1000.0,
    "kind": "split",
    "chosen": CHOSEN,
    "candidates": [CHOSEN, {"prefill": "decode-0", "decode": "decode-0", "cost": 0.75}],
}


def pool(role: str, *workers: dict[str, Any], wanted: int | None = 1) -> dict[str, Any]:
    sums = {name: sum(one[name] for one in workers) for name in ("running", "waiting", "free_blocks", "num_blocks", "stranded_blocks")}
    return {"role": role, "wanted": wanted, "states": {"ready": len(workers)}, **sums, "workers": list(workers), "left_out": 0}


OFF: dict[str, Any] = {"enabled": False, "plan": None, "history": [], "actions": []}


def state(router: str = "router-a", **changes: Any) -> dict[str, Any]:
    return {
        "router": router,
        "at": 1000.0,
        "model": "demo",
        "controller": {"heard_s_ago": 0.5, "error": ""},
        "failures": [],
        "open_requests": 4,
        "waiting_requests": 0,
        "waiting_tokens": 0,
        "oldest_waiting_s": 0.0,
        "kept_whole": 2,
        "flows_left_out": 0,
        "pools": [pool("prefill", wanted=1), pool("decode", WORKER)],
        "flows": [FLOW],
        "requests": [REQUEST],
        "decisions": [DECISION],
        "scaling": OFF,
        "scaling_error": "",
        **changes,
    }


def drawn(told: dict[str, Any], width: int = 80, height: int | None = None, trouble: str = "") -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(frame(told, None if height is None else (width, height), trouble))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_frame_says_what_the_console_shows() -> None:
    """Pools, workers, hand-offs, requests, decisions and scaling, and what is wrong."""
    text = drawn(state(), 120)
    for said in (
        *("demo", "● router-a", "4 requests under way", "1 of 1 ready", "0 of 1 ready", "3 running, 1 waiting", "KV 75 %", "● ready"),
        *("prefill-0", "5 MB", "1 computed again", "2 requests stayed on one worker", "cmpl-one", "2.00 s", "0.5, next 0.75"),
        *("off: each pool", "✕ prefill is short of workers"),
    ):
        assert said in text, text


PLAN = {
    "at_s": 1000.0,
    "scaler": "baton",
    "held": "no numbers",
    "warnings": ["too slow"],
    "dry_run": True,
    "pools": [
        {
            "role": "decode",
            "ready": 2,
            "target": 5,
            "clamps": ["at most 5", "limits of 08:00-10:00"],
            "demand_tokens_per_s": 10.4,
            "forecast_tokens_per_s": None,
            "worker_tokens_per_s": 7.0,
        }
    ],
}


def test_what_the_autoscaler_says() -> None:
    """Its numbers, that it only recommends, what had a say, why it holds, and what it warns of."""
    text = drawn(state(scaling={**OFF, "enabled": True, "plan": PLAN}))
    for said in (
        "only recommends",
        "decode",
        "10",
        "decode: at most 5; limits of 08:00-10:00",
        "held: no numbers",
        "too slow",
        "for anything yet",
    ):
        assert said in text
    assert "no plan has been made yet" in drawn(state(scaling={**OFF, "enabled": True}))
    assert "not known" in drawn(state(scaling_error="TimeoutError"))


def test_what_the_autoscaler_did() -> None:
    """A dozen of it with times, the newest first, whatever the newest plan asks for; on a small terminal the newest of them."""
    actions = [{"at_s": 1000.0 - n, "text": f"add {n} to decode", "dry_run": n > 5} for n in range(12)]
    told = state(scaling={**OFF, "enabled": True, "plan": PLAN, "actions": actions})
    lines = [line.strip() for line in drawn(told).splitlines() if " to decode" in line]
    assert [line.split("  ")[1] for line in lines] == [f"{'would ' * (n > 5)}add {n} to decode" for n in range(12)]
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in lines)
    assert 2 <= drawn(told, height=40).count(" to decode") < 12


@pytest.mark.parametrize("height", [18, 24, 30, 40, 50, 60, 100])
def test_every_part_is_on_the_terminal(height: int) -> None:
    """Twelve workers, much going on and a scaler that says much: fewer rows of each, not parts that are cut off."""
    plan: dict[str, Any] = {**PLAN, "warnings": ["what may be started keeps up with 90% of the demand that is expected"]}
    plan["pools"] = [{**plan["pools"][0], "role": role} for role in ("prefill", "decode")]
    actions = [{"at_s": 1000.0 - n, "text": f"add {n} to decode", "dry_run": False} for n in range(12)]
    told = state(
        pools=[pool(role, *({**WORKER, "worker": f"{role}-{n}"} for n in range(6)), wanted=6) for role in ("prefill", "decode")],
        flows=[{**FLOW, "prefill": f"prefill-{n}"} for n in range(12)],
        requests=[{**REQUEST, "client_request": f"cmpl-{n}"} for n in range(24)],
        decisions=[{**DECISION, "client_request": f"cmpl-{n}"} for n in range(12)],
        scaling={**OFF, "enabled": True, "plan": plan, "actions": actions},
    )
    lines = drawn(told, 80, height).splitlines()
    assert len(lines) <= height
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in PARTS] == list(PARTS)
    assert "none yet" not in " ".join(lines)
    assert len(lines) > 0.6 * min(height, 60)


PARTS = ("hand-offs", "requests", "decisions", "scaling")
LONG = "x" * 200
FULL = state(
    model=LONG,
    pools=[pool(role, *({**WORKER, "worker": f"{LONG}{n}", "refused": LONG} for n in range(24))) for role in ("prefill", "decode")],
    flows=[{**FLOW, "prefill": f"{n}{LONG}"} for n in range(48)],
    requests=[{**REQUEST, "client_request": f"{n}{LONG}"} for n in range(24)],
    decisions=[{**DECISION, "client_request": f"{n}{LONG}"} for n in range(12)],
)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_it_fits(width: int) -> None:
    """However much there is and whatever it is called, no line is longer than the terminal; and a high one shows all parts."""
    lines = drawn(FULL, width, 50).splitlines()
    assert max(map(len, lines)) <= width
    assert all(
        any(line.startswith(part) for line in lines[:58]) for part in ("prefill", "decode", "hand-offs", "requests", "decisions", "scaling")
    )


def test_names_cannot_steer_the_terminal() -> None:
    """Neither by the terminal's own sequences nor by those of the library that draws."""
    hostile = "\x1b[2J\x1b]0;owned\x07[bold red]x[/]\n\r"
    failure = {"worker": hostile, "at": 1.0, "reason": hostile}
    text = drawn(state(model=hostile, pools=[pool("decode", {**WORKER, "worker": hostile})], failures=[failure]))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold red]" in text


def test_a_lost_router_is_said() -> None:
    """With the time of what is still shown."""
    assert "router lost: Connection refused; this is of" in drawn(state(), trouble="Connection refused")


def test_routers_are_added_up() -> None:
    """Each answers in turn and knows its own: sums and newest are of all; who has not been heard for half a minute is left out."""
    routers = TopRouters()
    routers.add(state("a"), 0.0)
    both = routers.add(state("b", requests=[{**REQUEST, "arrived_at": 2000.0, "client_request": "cmpl-two"}], flows=[]), 10.0)
    assert (both["routers"], both["open_requests"], both["kept_whole"]) == (["a", "b"], 8, 4)
    assert [row["client_request"] for row in both["requests"]] == ["cmpl-two", "cmpl-one"]
    again = routers.add(state("b", flows=[{**FLOW, "recomputed": 0}]), 20.0)
    assert again["flows"] == [{**FLOW, "count": 6, "transfer_bytes": 10_000_000, "transfer_s": 0.2}]
    assert routers.add(state("b"), 31.0)["routers"] == ["b"]
