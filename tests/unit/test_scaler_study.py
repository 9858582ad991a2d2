"""``make autoscale`` from the first run to the page, small; and how scalers are held against each other."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.autoscale import page
from benchmarks.autoscale.curves import Curves, attained_with, hours_for
from benchmarks.autoscale.fleet import Setup
from benchmarks.autoscale.runs import Found, Run, Runs
from benchmarks.autoscale.study import OURS, SCENES, Scene, Told, everything, quick

SMALL = replace(quick(next(scene for scene in SCENES if scene.name == "burst")), until_s=40.0, other_seeds=(2,), start_ups_s=(30.0,))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    """Forty seconds of everything, and the folder of the page."""
    folder = tmp_path_factory.mktemp("autoscale")
    found = everything(SMALL, Runs(folder / "cache", 0), seed=1)
    page.write(folder / "autoscaling.md", [found], seed=1)
    return folder, found


def test_the_page(told: tuple[Path, Told]) -> None:
    """A row for every setting and seed, a verdict for every comparison, the notes, and plots that are there."""
    folder, found = told
    text = (folder / "autoscaling.md").read_text()
    for setup in found.first:
        assert re.search(rf"^\| (\*\*)?{re.escape(setup.name)}(\*\*)? \| 1 \|", text, re.MULTILINE)
    assert len(re.findall(r"\| (met|missed) \|$", text, re.MULTILINE)) == 3  # both seeds, and the other start-up time
    images = re.findall(r"\]\((.+\.svg)\)", text)
    assert len(images) == 3
    assert all((folder / image).read_text().startswith("<svg") for image in images)
    assert (Path(page.__file__).with_name("notes.md")).read_text().strip() in text


def test_what_is_known_is_not_run_again(told: tuple[Path, Told], monkeypatch: pytest.MonkeyPatch) -> None:
    """A study that was stopped goes on from the files it left; ``fresh`` does not look at them."""
    folder, found = told
    monkeypatch.setattr("benchmarks.autoscale.runs.simulate", lambda run: pytest.fail("it is known"))
    assert everything(SMALL, Runs(folder / "cache", 0), seed=1) == found
    with pytest.raises(pytest.fail.Exception):
        everything(SMALL, Runs(folder / "cache", 0, fresh=True), seed=1)


def test_another_version_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes of other code are not taken for this one's."""
    before = Run("burst", OURS).key
    monkeypatch.setattr("benchmarks.autoscale.runs.code", lambda: "of another day")
    assert Run("burst", OURS).key != before


def test_a_run_is_named_by_all_that_it_depends_on() -> None:
    """Another scene, setting, seed, start-up time or length: another file."""
    setups = [Setup("static", (), 2, 2), Setup("static", (), 2, 3), Setup("dynamo", (60.0, 0.0)), Setup("dynamo", (60.0, 1.0)), OURS]
    runs = [
        Run(scenario, setup, seed, start_up_s, until_s)
        for scenario in ("day", "burst")
        for setup in setups
        for seed in (1, 2)
        for start_up_s in (30.0, 60.0)
        for until_s in (None, 40.0)
    ]
    assert len({run.key for run in runs}) == len(runs)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_every_kind_of_rival(scene: Scene) -> None:
    """Each has several settings, and one in the quick form."""
    kinds = [setup.scaler.partition("-")[0] for setup in scene.rivals]
    assert all(kinds.count(kind) >= 3 for kind in ("static", "proportional", "dynamo"))
    assert len({setup.scaler for setup in quick(scene).rivals}) == len(quick(scene).rivals) == len({setup.scaler for setup in scene.rivals})


RIVAL = [(4.0, 0.8), (6.0, 0.9), (10.0, 1.0)]


@pytest.mark.parametrize(("attained", "hours"), [(0.7, 4.0), (0.85, 5.0), (0.95, 8.0), (1.01, None)])
def test_hours_at_equal_promises(attained: float, hours: float | None) -> None:
    """On the line between two settings; the cheapest, where all attain as much; none where none does."""
    assert hours_for(RIVAL, attained) == (None if hours is None else pytest.approx(hours))


def test_what_nobody_would_choose_is_in_nobodys_way() -> None:
    """A rival's bad setting between two good ones does not make it look worse."""
    assert hours_for([*RIVAL, (5.0, 0.3)], 0.85) == pytest.approx(5.0)
    assert attained_with([*RIVAL, (5.0, 0.3)], 5.0) == pytest.approx(0.85)


def test_nothing_to_be_held_against_meets_nothing() -> None:
    """Rivals that all keep less, with more worker-hours."""
    assert not Curves(OURS, {OURS: found(0.9, 3.0), Setup("static", (), 2, 2): found(0.8, 4.0)}).meets_target


@pytest.mark.parametrize(("hours", "attained"), [(3.0, None), (5.0, 0.85), (20.0, 1.0)])
def test_promises_at_equal_hours(hours: float, attained: float | None) -> None:
    """Likewise; none where even the cheapest setting takes more."""
    assert attained_with(RIVAL, hours) == (None if attained is None else pytest.approx(attained))


def found(attained: float, worker_hours: float) -> Found:
    return Found(attained, 1 - attained, worker_hours, {}, [], [])


def test_the_best_rival_decides() -> None:
    """Ours is held against whoever is cheapest, and against whoever keeps most; and the settings around both decide."""
    small, large, dear = Setup("static", (), 2, 2), Setup("static", (), 4, 4), Setup("dynamo", (60.0, 0.0))
    curves = Curves(OURS, {OURS: found(0.95, 5.6), small: found(0.8, 4.0), large: found(1.0, 8.0), dear: found(0.7, 3.0)})
    assert curves.cheapest is not None
    assert curves.best is not None
    assert (curves.cheapest[0], curves.best[0]) == ("static", "static")
    assert (round(curves.cheapest[1], 2), round(curves.best[1], 3)) == (7.0, 0.88)
    assert curves.saved == pytest.approx(0.2)
    assert curves.gained == pytest.approx(0.07)
    assert curves.meets_target
    assert set(curves.deciding) == {small, large}


@pytest.mark.parametrize(
    ("attained", "hours", "is_met"),
    [(0.9, 5.0, False), (0.85, 4.1, False), (0.85, 3.9, True), (0.99, 5.7, True), (1.0, 7.9, False), (1.0, 5.0, True)],
)
def test_the_target(attained: float, hours: float, is_met: bool) -> None:
    """A fifth fewer worker-hours, or ten points more. That no rival keeps as many promises is no target met by itself."""
    rivals = {Setup("static", (), count, count): found(share, 2.0 * count) for count, share in ((2, 0.8), (3, 0.9), (4, 0.99))}
    assert Curves(OURS, {OURS: found(attained, hours), **rivals}).meets_target is is_met


def test_ten_points_are_enough() -> None:
    """With as many worker-hours, however few those are that would be saved."""
    rivals = {Setup("static", (), 2, 2): found(0.8, 4.0), Setup("static", (), 3, 3): found(0.95, 4.5)}
    assert Curves(OURS, {OURS: found(0.91, 4.0), **rivals}).meets_target
