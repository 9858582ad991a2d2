"""What the controller counts of its pools."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cluster.lifecycle import (
    Beat,
    Died,
    DrainAsked,
    EngineLoaded,
    Event,
    Limits,
    RoleChanged,
    SleepAsked,
    TimePassed,
    WakeAsked,
    WorkerRecord,
    transition,
)
from cluster.pool_tally import PoolTally
from core.ids import Epoch, WorkerId
from core.metrics.catalogue import CHAPTERS
from core.metrics.exposition import ReadingCollector
from core.worker import EngineFacts, Role, WorkerCard, WorkerLoad, WorkerState

LIMITS = Limits(start_timeout_s=100.0, silence_s=10.0, drain_s=40.0)
CARD = WorkerCard(WorkerId("w"), Epoch(1), Role.DECODE, WorkerState.READY, "tcp://h:1", "k", EngineFacts(16, 64, 1024, 8, 512))
NEW = WorkerRecord(WorkerId("w"), Role.DECODE, Epoch(1), "spec", created_at_s=0.0)
IDLE = Beat(WorkerLoad(), idle=True, draining=True)
BUSY = replace(IDLE, idle=False)


def lived(tally: PoolTally, *events: tuple[float, Event]) -> WorkerRecord:
    """A worker's life, as the controller tells the tally of it."""
    record = NEW
    for now_s, event in events:
        after, _ = transition(record, event, now_s, LIMITS)
        tally.changed(record, after, now_s)
        record = after
    return record


def values(tally: PoolTally, *records: WorkerRecord) -> dict[tuple[str, str], float]:
    """What is not zero, by name and by the values of labels, in the alphabetical order of these."""
    registry = CollectorRegistry()
    registry.register(ReadingCollector(lambda: tally.readings(records, {Role.PREFILL: 0, Role.DECODE: 2}, 3)))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    samples = [sample for family in families for sample in family.samples if not sample.name.endswith("_bucket") and sample.value]
    return {(sample.name.removeprefix("baton_"), ",".join(sample.labels.values())): sample.value for sample in samples}


def test_a_life_that_ends_well() -> None:
    """Asked for, ready after 30 s, drained within 12."""
    tally = PoolTally()
    tally.started(Role.DECODE, 0)
    record = lived(tally, (30.0, EngineLoaded(CARD)), (31.0, TimePassed()), (40.0, DrainAsked()), (41.0, DrainAsked()), (52.0, IDLE))
    assert values(tally, record) == {
        ("pool_starts_total", "decode"): 1,
        ("pool_start_seconds_count", "decode"): 1,
        ("pool_start_seconds_sum", "decode"): 30,
        ("pool_drains_total", "decode"): 1,
        ("pool_drain_seconds_count", "decode"): 1,
        ("pool_drain_seconds_sum", "decode"): 12,
        ("pool_ends_total", "drained,decode"): 1,
        ("pool_workers", "decode,gone"): 1,
        ("pool_worker_state", "decode,gone,w"): 1,
        ("pool_wanted_workers", "decode"): 2,
        ("controller_routers", ""): 3,
    }


def test_a_life_with_a_night_in_it() -> None:
    """Relabelled, put to sleep after 9 s of draining, woken within 2 s: that is no start, and its pool is always the present one."""
    tally = PoolTally()
    to_sleep: list[tuple[float, Event]] = [(31.0, RoleChanged(Role.PREFILL)), (32.0, SleepAsked()), (41.0, IDLE), (500.0, WakeAsked())]
    record = lived(tally, (30.0, EngineLoaded(CARD)), *to_sleep, (502.0, EngineLoaded(CARD)))
    told = {key: value for key, value in values(tally, record).items() if key[0].startswith("pool_") and "wanted" not in key[0]}
    assert told == {
        ("pool_start_seconds_count", "decode"): 1,
        ("pool_start_seconds_sum", "decode"): 30,
        ("pool_relabels_total", "prefill"): 1,
        ("pool_drains_total", "prefill"): 1,
        ("pool_drain_seconds_count", "prefill"): 1,
        ("pool_drain_seconds_sum", "prefill"): 9,
        ("pool_sleeps_total", "prefill"): 1,
        ("pool_wake_seconds_count", "prefill"): 1,
        ("pool_wake_seconds_sum", "prefill"): 2,
        ("pool_workers", "prefill,ready"): 1,
        ("pool_worker_state", "prefill,ready,w"): 1,
    }


def test_who_dies_asleep_has_not_drained_all_night() -> None:
    """The drain is measured once, where it ends."""
    tally = PoolTally()
    lived(tally, (30.0, EngineLoaded(CARD)), (32.0, SleepAsked()), (41.0, IDLE), (500.0, Died("x")))
    told = values(tally)
    assert (told["pool_drain_seconds_sum", "decode"], told["pool_ends_total", "died,decode"]) == (9, 1)


def test_ends_by_their_cause() -> None:
    """Each of them once, however often it is heard of."""
    tally = PoolTally()
    loaded: tuple[float, Event] = (30.0, EngineLoaded(CARD))
    lives: dict[str, list[tuple[float, Event]]] = {
        "died": [loaded, (35.0, Died("x")), (36.0, Died("x"))],
        "silent": [loaded, (50.0, TimePassed()), (51.0, TimePassed())],
        "start_timeout": [(101.0, TimePassed())],
        "never_ready": [(5.0, DrainAsked())],
        "drain_timeout": [loaded, (31.0, DrainAsked()), (72.0, BUSY), (72.0, TimePassed())],
    }
    for events in lives.values():
        lived(tally, *events)
    ends = {labels: value for (name, labels), value in values(tally).items() if name == "pool_ends_total"}
    assert ends == {f"{cause},decode": 1 for cause in lives}


def test_a_start_that_nobody_saw_is_not_measured() -> None:
    """A new controller finds workers that are ready: that took no time it knows of."""
    tally = PoolTally()
    tally.adopted(NEW.worker)
    record = lived(tally, (0.1, EngineLoaded(CARD)))
    assert ("pool_start_seconds_count", "decode") not in values(tally, record)
    assert values(tally, record)["pool_workers", "decode,ready"] == 1


def test_restarts_are_starts_too() -> None:
    """Those that replace one that died."""
    tally = PoolTally()
    tally.started(Role.PREFILL, 0)
    tally.started(Role.PREFILL, 2)
    told = values(tally)
    assert (told["pool_starts_total", "prefill"], told["pool_restarts_total", "prefill"]) == (2, 1)


def test_the_whole_chapter_is_told() -> None:
    """Every metric of the catalogue's chapter, and no other."""
    tally = PoolTally()
    tally.stepped(0.1, failed=True)
    assert {reading.entry for reading in tally.readings([NEW], {}, 0)} == set(CHAPTERS["pools"])
