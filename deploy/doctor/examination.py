"""The examination from its first question to its last line: what is asked of whom, in which order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from core.config import BatonConfig
from core.worker import Role
from deploy.doctor import verdicts
from deploy.doctor.kv_fit import Fit, kv_fit
from deploy.doctor.line import Line, judged
from deploy.doctor.measured import Clock, Link, Node
from deploy.doctor.pins import own_pins
from deploy.doctor.staff import LostError, Staff, pairs
from deploy.doctor.wants import Wants
from deploy.progress import Progress

_BUFFER_BYTES = 32 << 20
_MOST_LINKS = 16
_TRIPS = 20
"""For a clock: one of so many is fast."""


class Plan(msgspec.Struct, frozen=True):
    """What is to be looked for. ``config`` None: what needs none."""

    config: BatonConfig | None = None
    http: tuple[str, int] | None = None
    http_everywhere: bool = False
    """Serve listens on every node, not only the first."""
    serve_runs: bool = False
    ray_env: Sequence[str] | None = None
    """Variables that Ray should have been started with; None: it is not running yet, or `baton up` will see to it."""


def examine(staff: Staff, plan: Plan, progress: Progress) -> Iterator[Line]:
    """Lines as they are found; some seconds per node and link. An examiner that is lost is a line, too, and the others go on."""
    wants = Wants() if plan.config is None else Wants.of(plan.config)
    nodes, lost = _nodes(staff, plan, progress)
    yield from lost
    yield from _of_nodes(nodes, plan, wants)
    if len(nodes) > 1:
        progress.wait_for("comparing clocks")
        try:
            yield verdicts.clocks([clock(staff, number) for number in _first_of_each(staff.nodes)])
        except LostError as error:
            yield _unanswered("clocks", "cluster", error)
    chosen = pairs(staff.nodes, _MOST_LINKS)
    for number, (reader, keeper) in enumerate(chosen, start=1):
        where = f"{staff.nodes[keeper]} to {staff.nodes[reader]}"
        progress.wait_for(f"link {number} of {len(chosen)}: {where}")
        try:
            yield verdicts.link(_link(staff, reader, keeper, wants), wants)
        except LostError as error:
            yield _unanswered("link", where, error)
    progress.say(f"{len(chosen)} of {len(nodes) * (len(nodes) - 1) or 1} links measured")


def clock(staff: Staff, which: int, wall_s: Callable[[], float] = time.time, tick_s: Callable[[], float] = time.monotonic) -> Clock:
    """By the fastest of several round trips: the answer was given somewhere between asking and hearing."""
    fastest: Clock | None = None
    for _ in range(_TRIPS):
        asked_s, began_s = wall_s(), tick_s()
        theirs_s = staff.ask(which, "now_s")
        trip_s = tick_s() - began_s
        if fastest is None or trip_s / 2 < fastest.error_s:
            fastest = Clock(staff.nodes[which], theirs_s - (asked_s + trip_s / 2), trip_s / 2)
    assert fastest is not None
    return fastest


def _nodes(staff: Staff, plan: Plan, progress: Progress) -> tuple[list[Node], list[Line]]:
    found, lost = [], []
    for number in _first_of_each(staff.nodes):
        progress.wait_for(f"looking at {staff.nodes[number]}")
        http = plan.http if number == 0 or plan.http_everywhere else None
        try:
            found.append(staff.ask(number, "node", plan.config, http))
        except LostError as error:
            lost.append(_unanswered("node", staff.nodes[number], error))
    progress.say(f"{len(found)} {'node' if len(found) == 1 else 'nodes'} looked at")
    return found, lost


def _of_nodes(nodes: Sequence[Node], plan: Plan, wants: Wants) -> Iterator[Line]:
    fits = _fits(nodes, plan.config)
    for node in nodes:
        yield verdicts.versions(node, own_pins(node.versions))
        if plan.ray_env is not None:
            yield verdicts.ray_environment(node, plan.ray_env)
        yield verdicts.nixl(node, wants)
        yield verdicts.ports(node, plan.serve_runs)
        yield verdicts.gpu(node)
        yield verdicts.rdma(node, wants, alone=len(nodes) == 1)
        yield verdicts.model(node)
        yield verdicts.host_memory(node, host_bytes(fits, wants, alone=len(nodes) == 1))
        yield verdicts.shared_memory(node)
        yield verdicts.open_files(node, wants)
    if len(nodes) > 1:
        yield verdicts.agreement(nodes)
    if wants.gpus:
        yield verdicts.gpu_count(nodes, wants)
    yield from (verdicts.kv_room(fit) for fit in fits)


def host_bytes(fits: Sequence[Fit], wants: Wants, alone: bool) -> float:
    """What workers take of a node's memory: all of them where there is one node, else the largest; where Ray puts them is not known."""
    counts = {pool.role: pool.count for pool in wants.pools}
    if alone:
        return sum(fit.host_bytes * counts.get(fit.role, 0) for fit in fits)
    return max((fit.host_bytes for fit in fits), default=0.0)


def _fits(nodes: Sequence[Node], config: BatonConfig | None) -> list[Fit]:
    """By the smallest GPU there is: which pool gets which is Ray's to say."""
    if config is None:
        return []
    smallest = min((gpu.memory_bytes for node in nodes for gpu in node.gpus.found), default=None)
    return [fit for role in Role if config.pool(role).count and (fit := kv_fit(config, role, smallest)) is not None]


def _link(staff: Staff, reader: int, keeper: int, wants: Wants) -> Link:
    port = staff.ask(keeper, "serve_tcp")
    offer = staff.ask(keeper, "offer", _BUFFER_BYTES) if wants.nixl else None
    link: Link = staff.ask(reader, "pull", staff.nodes[keeper], staff.nodes[keeper], port, offer)
    return link


def _first_of_each(nodes: Sequence[str]) -> list[int]:
    return [number for number, node in enumerate(nodes) if node not in nodes[:number]]


def _unanswered(check: str, where: str, error: LostError) -> Line:
    advice = "is Baton installed there, by the same lock? The node's log of Ray says more"
    return judged(check, where, "", [(f"no answer: {error.args[0]}", advice)])
