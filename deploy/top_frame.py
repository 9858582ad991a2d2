"""One frame of ``baton top``: what the console shows, in letters. Pure."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

_STATES = {"ready": ("●", "green"), "starting": ("◌", "yellow"), "draining": ("◐", "yellow"), "sleeping": ("☾", "blue")}
_BAD = ("✕", "bold red")
_PHASES = (
    ("queue", "░", "bright_black", ("route", "queue", "engine_queue")),
    ("prefill", "█", "blue", ("prefill",)),
    ("hand-off", "▒", "yellow", ("handoff_wait", "transfer", "decode_wait")),
    ("decode", "━", "green", ("decode",)),
)
"""Told apart by their letters as well as by their colours."""
_BAR = 16
_KV_BAR = 10
_ID = 18


class Room(NamedTuple):
    """How many rows each part may have, and whether lines are left empty between parts."""

    workers: int
    """Of each pool."""
    rows: int
    """Of hand-offs, requests and decisions each; 0 is their headings only."""
    actions: int
    spaced: bool = True


_ALL, _LEAST = Room(24, 8, 12), Room(0, 0, 0, False)
_SMALL = (Room(4, 2, 2, False), Room(2, 1, 1, False), Room(0, 1, 1, False))
_ROOMS = (_ALL, *(Room(3 * rows, rows, rows) for rows in (7, 6, 5, 4, 3, 2)), *_SMALL, _LEAST)
"""The largest first."""


def frame(state: Row, size: tuple[int, int] | None = None, trouble: str = "") -> RenderableType:
    """``size`` is a terminal's width and height, on which every part is to be seen; None: as long as it gets. ``trouble``: why there is no
    newer state."""
    if size is None:
        return _frame(state, _ALL, trouble)
    width, height = size
    paper = Console(width=width, height=height, file=io.StringIO())

    def fits(room: Room) -> bool:
        return len(paper.render_lines(_frame(state, room, trouble), pad=False)) <= height

    return _frame(state, _ROOMS[bisect_left(_ROOMS[:-1], True, key=fits)], trouble)


def _frame(state: Row, room: Room, trouble: str) -> RenderableType:
    gap = [Text()] if room.spaced else []
    parts: list[RenderableType] = [_head(state, trouble), *_notices(state)]
    for pool in state["pools"]:
        parts += [*gap, _pool_head(pool), *([_workers(pool, room.workers)] if room.workers else [])]
    parts += [*gap, *_flows(state, room.rows), *gap, *_requests(state, room.rows), *gap, *_decisions(state, room.rows)]
    return Group(*parts, *gap, *_scaling(state, room.actions))


def _head(state: Row, trouble: str) -> Text:
    routers = state.get("routers", [state["router"]])
    said = Text.assemble(("Baton ", "bold"), (_plain(state["model"]), "bold"), "  ")
    if trouble:
        return said.append(f"✕ router lost: {_plain(trouble)}; this is of {_clock(state['at'])}. Trying again ...", "bold red")
    said.append(f"● {', '.join(map(_plain, routers[:2]))}{f' and {len(routers) - 2} more' if len(routers) > 2 else ''}", "green")
    said.append(f"  {_clock(state['at'])}\n", "bright_black")
    waits = (
        f", {state['waiting_requests']} waiting, the first for {_seconds(state['oldest_waiting_s'])}" if state["waiting_requests"] else ""
    )
    return said.append(f"{_some(state['open_requests'], 'request')} under way{waits}")


def _notices(state: Row) -> list[Text]:
    found = []
    if not any(pool["states"].get("ready") for pool in state["pools"]):
        found.append("no worker is ready: nobody can serve yet")
    found += [
        f"{pool['role']} is short of workers: {pool['states'].get('ready', 0)} of {pool['wanted']} ready"
        for pool in state["pools"]
        if pool["wanted"] is not None and pool["states"].get("ready", 0) < pool["wanted"]
    ]
    found += [f"{one['worker']} ended at {_clock(one['at'])}: {one['reason']}" for one in state["failures"]]
    if state["controller"]["error"]:
        found.append("the controller does not answer; requests are served all the same")
    return [Text(f"✕ {_plain(text)}", "red") for text in found]


def _pool_head(pool: Row) -> Text:
    ready = pool["states"].get("ready", 0)
    parts = [f"{ready} ready" if pool["wanted"] is None else f"{ready} of {pool['wanted']} ready"]
    parts += [f"{count} {state}" for state, count in pool["states"].items() if state != "ready"]
    parts.append(f"{pool['running']} running, {pool['waiting']} waiting")
    if pool["num_blocks"]:
        parts.append(f"KV {_percent(pool)}")
    if pool["stranded_blocks"]:
        parts.append(f"{pool['stranded_blocks']} blocks stranded")
    return Text.assemble((f"{pool['role']:<8}", "bold blue" if pool["role"] == "prefill" else "bold green"), " · ".join(parts))


def _workers(pool: Row, most: int) -> Table:
    table = _table(("worker", None), ("state", None), ("running", "right"), ("waiting", "right"), ("prompt tokens", "right"), ("KV", None))
    shown = sorted(pool["workers"], key=lambda one: (one["state"] == "ready", -one["running"] - one["waiting"]))[:most]
    for one in sorted(shown, key=lambda one: str(one["worker"])):
        sign, style = _STATES.get(one["state"], _BAD)
        known = one["num_blocks"] > 0
        numbers = [str(one[name]) if known else "-" for name in ("running", "waiting", "prompt_tokens")]
        phase = f": {one['phase']}" if one["phase"] and one["state"] != "ready" else " (full)" if one["refused"] else ""
        used = Text(_bar(one), "default").append(f" {_percent(one)}") if known else Text("-")
        table.add_row(Text(_plain(one["worker"])), Text(_plain(f"{sign} {one['state']}{phase}"), style), *numbers, used)
    if left := len(pool["workers"]) - len(shown) + pool["left_out"]:
        table.add_row(Text(f"and {left} more", "bright_black"))
    return table


def _flows(state: Row, most: int) -> list[RenderableType]:
    flows = state["flows"]
    head = f"of the last minute; {_some(state['kept_whole'], 'request')} stayed on one worker"
    table = _table(("from", None), ("to", None), ("count", "right"), ("KV", "right"), ("", None))
    widest = max((flow["transfer_bytes"] for flow in flows), default=0)
    for flow in flows[:most]:
        again = f" {flow['recomputed']} computed again" if flow["recomputed"] else ""
        width = round(_BAR * flow["transfer_bytes"] / widest) if widest else 0
        bar = Text("▒" * width, "yellow").append(again, "red")
        table.add_row(Text(_plain(flow["prefill"])), Text(_plain(flow["decode"])), str(flow["count"]), _bytes(flow["transfer_bytes"]), bar)
    return _part("hand-offs", head, table if flows and most else None)


def _requests(state: Row, most: int) -> list[RenderableType]:
    rows, any_at_all = state["requests"][:most], bool(state["requests"])
    longest = max((row["took_s"] for row in rows), default=0.0)
    table = _table(("request", None), ("where", None), ("time", "right"), ("", None))
    for row in rows:
        bar = Text()
        for _, letter, style, parts in _PHASES:
            spent_s = sum(row["parts_s"].get(part, 0.0) for part in parts)
            bar.append(letter * (max(1, round(_BAR * spent_s / longest)) if spent_s else 0), style)
        style = "red" if row["outcome"] == "failed" else "default"
        where = _where(row["prefill_worker"], row["decode_worker"])
        table.add_row(Text(_short(row["client_request"]), style), Text(where), _seconds(row["took_s"]), bar)
    legend = "  ".join(f"{letter} {name}" for name, letter, _, _ in _PHASES)
    return _part("requests", legend if any_at_all else "none yet", table if rows else None)


def _decisions(state: Row, most: int) -> list[RenderableType]:
    rows, any_at_all = state["decisions"][:most], bool(state["decisions"])
    table = _table(("at", None), ("request", None), ("chosen", None), ("cost", None))
    for row in rows:
        chosen = row["chosen"]
        where = "nobody" if chosen is None else _where(chosen["prefill"], chosen["decode"])
        table.add_row(_clock(row["decided_at"]), Text(_short(row["client_request"])), Text(where), Text(_plain(_why(row))))
    return _part("decisions", "" if any_at_all else "none yet", table if rows else None)


def _why(row: Row) -> str:
    chosen = row["chosen"]
    if chosen is None or chosen["cost"] is None:
        return str(row["kind"])
    others = [one for one in row["candidates"] if (one["prefill"], one["decode"]) != (chosen["prefill"], chosen["decode"])]
    said = f"{chosen['cost']:.3g}"
    if not others or others[0]["cost"] is None:
        return f"{said}, the only plan" if not others else said
    return f"{said}, next {others[0]['cost']:.3g}"


def _scaling(state: Row, most: int) -> list[RenderableType]:
    scaling, error = state["scaling"], state["scaling_error"]
    plan = scaling["plan"]
    if error:
        return _part("scaling", "not known: the controller does not answer", None)
    if not scaling["enabled"]:
        return _part("scaling", "off: each pool has the number of workers that the configuration says", None)
    if plan is None:
        return _part("scaling", "no plan has been made yet", None)
    table = _table(
        ("pool", None), ("ready", "right"), ("target", "right"), ("demand", "right"), ("forecast", "right"), ("a worker does", "right")
    )
    for pool in plan["pools"]:
        rates = [_rate(pool[name]) for name in ("demand_tokens_per_s", "forecast_tokens_per_s", "worker_tokens_per_s")]
        table.add_row(str(pool["role"]), str(pool["ready"]), str(pool["target"]), *rates)
    said = "only recommends, " if plan["dry_run"] else ""
    limits = [Text(_plain(f"{pool['role']}: {'; '.join(pool['clamps'])}"), "bright_black") for pool in plan["pools"] if pool["clamps"]]
    notes = [Text(_plain(text), "yellow") for text in ([f"held: {plan['held']}"] if plan["held"] else []) + list(plan["warnings"])]
    done = [Text(_plain(f"{_clock(one['at_s'])}  {'would ' * one['dry_run']}{one['text']}")) for one in scaling["actions"][:most]]
    nothing = [] if scaling["actions"] else [Text("no plan has asked for anything yet", "bright_black")]
    return [*_part("scaling", f"{said}{_clock(plan['at_s'])}; tokens per second", table), *limits, *notes, *done, *nothing]


def _part(name: str, said: str, table: Table | None) -> list[RenderableType]:
    head = Text.assemble((f"{name:<10}", "bold"), (_plain(said), "bright_black"))
    return [head] if table is None else [head, table]


def _table(*columns: tuple[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
    for name, side in columns:
        table.add_column(name, justify=side or "left", no_wrap=True, overflow="ellipsis")
    return table


def _where(prefill: str | None, decode: str | None) -> str:
    if prefill is None or decode is None:
        return "no worker yet"
    return _plain(f"all on {decode}" if prefill == decode else f"{prefill} → {decode}")


def _plain(text: object) -> str:
    """Without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def _short(name: object) -> str:
    """The beginning of an id, which tells it from others."""
    text = _plain(name)
    return text if len(text) <= _ID else f"{text[: _ID - 1]}…"


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _clock(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%H:%M:%S")


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _used(row: Row) -> float:
    return float((row["num_blocks"] - row["free_blocks"]) / row["num_blocks"])


def _percent(row: Row) -> str:
    return f"{100 * _used(row):.0f} %"


def _bar(row: Row) -> str:
    full = round(_KV_BAR * _used(row))
    return "█" * full + "░" * (_KV_BAR - full)
