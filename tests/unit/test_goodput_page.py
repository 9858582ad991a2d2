"""``make goodput`` from the first run to the page, small."""

import re
from dataclasses import replace

import msgspec
import pytest

from benchmarks.goodput import page
from benchmarks.goodput.__main__ import WORKLOADS
from benchmarks.goodput.runs import Runs
from benchmarks.goodput.setups import Run, Setup, code, spec
from benchmarks.goodput.sweep import Sweep, Workload, quick
from simulation.goodput import Objective

WORK = Workload("azure_code", Objective(2.0, 0.1), rates=(50,), requests=40, ratios=(8,), step_tokens=(2048,))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("goodput")
    runs = Runs(folder / "cache", 0)
    found = Sweep(WORK, runs, seed=1).everything()
    page.write(folder / "goodput.md", [(WORK, found)], seed=1)
    return folder, found


def test_the_page_shows_every_set_up_and_its_plots_exist(written):
    """Three set-ups, ablations, several routers; each image is there."""
    folder, found = written
    text = (folder / "goodput.md").read_text()
    for curves in found.values():
        for curve in curves:
            assert f"| {curve.setup.policy} |" in text
    images = re.findall(r"\]\((.+\.svg)\)", text)
    assert text.count(" that of the best ") == 3  # aggregated, at a fixed ratio, and with our router
    assert len(images) == 3
    assert all((folder / image).read_text().startswith("<svg") for image in images)


@pytest.mark.parametrize("work", WORKLOADS, ids=lambda work: work.name)
def test_the_quick_form_has_all_kinds_of_set_ups(work):
    """Ours with prefill workers and without, and others at a fixed ratio: the ablations are of pairs."""
    small = quick(work)
    assert {bool(prefill) for prefill, _ in small.ours} == {True, False}
    assert len(small.ratios) == len(small.step_tokens) == 1
    assert len(small.rates) < len(work.rates)


def test_who_refuses_early():
    """Under our router everybody does; in their own systems only those that say so."""
    setups = [Setup(policy, 8, lent=lent) for policy in ("dynamo_kv", "mooncake_ttft") for lent in (True, False)]
    assert [setup.refuses for setup in setups] == [True, False, True, True]
    queues = [spec(Run(setup, "azure_code", 40, 1.0, WORK.objective)).queue for setup in setups]
    assert [queue.refuse_hopeless for queue in queues] == [True, False, True, True]
    assert [queue.longest_makes_way for queue in queues] == [True, False, True, False]


class Steep(Runs):
    """Outcomes of a cluster that keeps all promises up to a rate of 30, with one router up to 60, and none beyond."""

    def __init__(self, one):
        self._one = one
        self.ran = []

    def of(self, runs):
        wanted = list(runs)
        self.ran += [(run.setup.routers, run.rate) for run in wanted]
        good = {run: self._one.offered if run.rate <= (60 if run.setup.routers == 1 else 30) else 0 for run in wanted}
        return {run: msgspec.structs.replace(self._one, rate=run.rate, good=count) for run, count in good.items()}


def test_who_is_far_below_the_best_is_looked_for_there(written):
    """Rates near the best one's goodput are tried first; who is not good enough at the lowest of them, at slower ones until it is."""
    _, found = written
    work = replace(WORK, rates=(10, 20, 30, 40, 50, 60, 70))
    runs = Steep(found["per request"][0].points[0])
    one, four = Sweep(work, runs, seed=1).curves([Setup("baton", 8), Setup("baton", 8, routers=4)], [50, 60, 70])
    assert [point.rate for point in one.points] == [50, 60, 70]
    assert [point.rate for point in four.points] == [30, 40, 50]
    assert 30 <= four.goodput < 40
    assert (4, 20) not in runs.ran


def test_what_is_known_is_not_run_again(written, monkeypatch):
    """A sweep that was stopped goes on from the files it left."""
    folder, found = written
    monkeypatch.setattr("benchmarks.goodput.runs.simulate", lambda run: pytest.fail("it is known"))
    assert Sweep(WORK, Runs(folder / "cache", 0), seed=1).everything() == found


def test_a_run_is_named_by_all_that_it_depends_on():
    """Other seed, rate, promise, policy: other file."""
    runs = [
        Run(Setup(policy, prefill), "azure_code", 40, rate, Objective(2.0, tpot_s), seed)
        for policy in ("random", "baton")
        for prefill in (0, 8)
        for rate in (1.0, 2.0)
        for tpot_s in (0.1, 0.2)
        for seed in (1, 2)
    ]
    assert len({run.key for run in runs}) == len(runs)


def test_other_code_is_another_run(monkeypatch, written):
    """Whatever decides an outcome: outcomes that an older version left are not taken for this one's. The page says which it was."""
    run = Run(Setup("baton", 8), "azure_code", 40, 1.0, Objective(2.0, 0.1))
    before = run.key
    assert f"`{code()}`" in (written[0] / "goodput.md").read_text()
    monkeypatch.setattr("benchmarks.digest.code", lambda *besides: "other")
    assert run.key != before
