"""How long hand-offs take."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import WorkerId
from router.predict.links import LinkModel, LinkTimes

P, P2, D, D2 = (WorkerId(name) for name in ("p", "p2", "d", "d2"))
MB = 1_000_000
_NOW = itertools.count(0.0, 1e4)


def used(
    links: LinkTimes, p: WorkerId, d: WorkerId, bytes_per_s: float, times: int = 60, size: int | None = None, seed: int = 7
) -> LinkTimes:
    """After hand-offs of 1 to 500 MB with 5 ms latency and 10 % noise; one in ten takes twenty times as long."""
    rng = random.Random(seed)
    for _ in range(times):
        transfer_bytes = size or rng.randint(1, 500) * MB
        seconds = (0.005 + transfer_bytes / bytes_per_s) * rng.lognormvariate(0, 0.1)
        links.observe(p, d, transfer_bytes, seconds * (20 if rng.random() < 0.1 else 1), next(_NOW))
    return links


@pytest.mark.parametrize("bytes_per_s", [1e8, 1e9, 1e11])
def test_finds_latency_and_bandwidth(bytes_per_s: float) -> None:
    """However wrong the prior is, and with stalls among them; within a third for small and for large ones."""
    links = used(LinkTimes(), P, D, bytes_per_s)
    for transfer_bytes in (MB, 50 * MB, 500 * MB):
        assert links.link(P, D).seconds(transfer_bytes) == pytest.approx(0.005 + transfer_bytes / bytes_per_s, rel=0.34)


def test_a_new_pair_is_like_others() -> None:
    """Like the decode worker's other links, else like everybody's, else like the prior."""
    links = LinkTimes(LinkModel(latency_s=0.1, bytes_per_s=1e9))
    assert links.link(P, D).seconds(500 * MB) == 0.6
    used(links, P, D, 1e9)
    used(links, P, D2, 1e10)
    size = 400 * MB
    assert links.link(P2, D).seconds(size) == links.link(P, D).seconds(size)
    assert links.link(P2, D2).seconds(size) == links.link(P, D2).seconds(size) < links.link(P, D).seconds(size) / 5
    assert links.link(P2, WorkerId("new")).seconds(size) < links.link(P, D).seconds(size)


def test_follows_a_change() -> None:
    """A link that became ten times slower is known to be within some eighty hand-offs."""
    links = used(used(LinkTimes(), P, D, 1e10), P, D, 1e9, times=150)
    assert links.link(P, D).seconds(200 * MB) == pytest.approx(0.205, rel=0.3)


def test_one_size_tells_bandwidth() -> None:
    """Where all prompts are equal, latency is the prior's, and twice the bytes take about twice the time."""
    links = used(LinkTimes(LinkModel(latency_s=0.001)), P, D, 1e9, size=100 * MB)
    assert links.link(P, D).seconds(200 * MB) / links.link(P, D).seconds(100 * MB) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("together", [True, False], ids=["side by side", "one after the other"])
def test_pulls_that_share_a_port_do_not_look_like_a_slow_link(together: bool) -> None:
    """Sixteen at once take sixteen times as long as one, or wait for each other: each byte takes as long as ever."""
    links, rng = LinkTimes(LinkModel(latency_s=0.001, bytes_per_s=5e8)), random.Random(2)
    for round_ in range(20):
        sizes = [rng.randint(50, 100) * MB for _ in range(16)]
        ended_s = 0.0
        for number, size in enumerate(sizes):
            if together:  # processor sharing: the smallest is there first
                sizes.sort()
                ended_s = (sum(sizes[:number]) + size * (16 - number)) / 1e9
            else:
                ended_s += size / 1e9
            links.observe(WorkerId(f"p{number}"), D, size, 0.001 + ended_s, 10.0 * round_ + 0.001 + ended_s)
    assert links.link(P, D).seconds(500 * MB) == pytest.approx(0.5, rel=0.1)


def test_a_pull_that_is_told_of_late_does_not_look_like_a_slow_link() -> None:
    """Its answer waited for a place in the batch, and others were pulled and answered meanwhile: the time between them was idle."""
    links = LinkTimes(LinkModel(latency_s=0.001, bytes_per_s=1e9))
    for round_ in range(50):
        for ended_s in (0.1, 5.1, 1.1):
            links.observe(P, D, 100 * MB, 0.1, 10.0 * round_ + ended_s)
    assert links.link(P, D).seconds(100 * MB) == pytest.approx(0.1, rel=0.1)


def test_forgets_workers_and_is_bounded() -> None:
    """A worker that is gone takes its pairs with it; the longest unused go first."""
    links = LinkTimes(max_links=50)
    for number in range(200):
        used(links, WorkerId(f"p{number}"), D, 1e9, times=7, seed=number)
    assert len(links) == 50
    links.forget(D)
    assert len(links) == 1, "everybody's is nobody's"
    assert links.link(P, D).seconds(100 * MB) == pytest.approx(0.1, rel=0.5)


@given(st.lists(st.tuples(st.integers(-1, 10**12), st.floats(allow_nan=True)), max_size=60), st.integers(0, 10**12))
def test_always_a_time(seen: list[tuple[int, float]], asked: int) -> None:
    """Whatever was told."""
    links = LinkTimes()
    for transfer_bytes, seconds in seen:
        links.observe(P, D, transfer_bytes, seconds, 1.0)
    assert 0.0 <= links.link(P, D).seconds(asked) < math.inf
