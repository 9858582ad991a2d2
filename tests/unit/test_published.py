"""Measurements of others, in the simulator's words: what is read, what is simulated of it, and what is said of the difference."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.published.deployment import Deployment, UnexpressedError, expressed, kv_blocks, spec
from benchmarks.published.load import Means, means, part, requests, simulate
from benchmarks.published.pace import Pace, find_pace
from benchmarks.published.ratio import divisions, ladder
from benchmarks.published.report import Compared, divisions_table, groups_table, left_out_table, rows_table
from benchmarks.published.rows import Row, Side, best, read, tokens_per_s_per_gpu
from benchmarks.published.runs import Runs
from core.worker import Role
from simulation.record import Record
from simulation.traces import TraceRequest

ROW = Row(
    name="toy",
    model="deepseek-ai/DeepSeek-V3",
    precision="fp8",
    gpu="h200_sxm",
    engine="trtllm",
    version="1",
    input_tokens=1024,
    output_tokens=512,
    clients=64,
    prefill=Side(workers=2, tp=1, groups=8, ep=8, gpus=16),
    decode=Side(workers=1, tp=8, groups=1, ep=8, gpus=8),
    ttft_s=1.0,
    tpot_s=0.02,
)


def _changed(**changes: object) -> Row:
    return msgspec.structs.replace(ROW, **changes)


def test_every_row_of_the_file_is_read_and_agrees_with_what_it_derives() -> None:
    """Our output per GPU from TTFT and TPOT is the file's own, but for rounding, wherever the number of clients is told."""
    rows = read()
    assert len(rows) == 137
    assert len({row.name for row in rows}) == 137
    derived = {}
    for line in (Path(__file__).parents[2] / "benchmarks/data/disaggregated_measured.csv").read_text().splitlines()[1:]:
        cells = line.split(",")
        derived[cells[0]] = cells[-4]
    for row in rows:
        if row.clients is None:
            assert derived[row.name] == ""
        else:
            assert tokens_per_s_per_gpu(row, row.ttft_s, row.tpot_s) == pytest.approx(float(derived[row.name]), rel=1e-4)


def test_a_row_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """With what is wrong about it: a figure that is none, or GPUs that are not those of its engines."""
    lines = (Path(__file__).parents[2] / "benchmarks/data/disaggregated_measured.csv").read_text().splitlines()
    path = tmp_path / "rows.csv"
    name = lines[1].split(",")[0]
    for wrong, message in (
        (lines[1].replace(",1024,1024,", ",many,1024,"), "many"),
        (lines[1].replace(",32.0,195", ",33.0,195"), "33 GPUs"),
    ):
        assert wrong != lines[1]
        path.write_text("\n".join([lines[0], wrong]))
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert name in str(error.value)


def test_no_row_is_dropped_without_a_reason() -> None:
    """Each is either simulated, with all that a simulation needs, or says why not."""
    reasons: list[str] = []
    for row in read():
        try:
            deployment = expressed(row)
        except UnexpressedError as reason:
            reasons.append(str(reason))
            continue
        assert deployment.clients == row.clients
        assert deployment.gpus == row.gpus
        assert {pool.role for pool in spec(deployment).pools} == {Role.PREFILL, Role.DECODE}
    assert all(reasons)


def test_a_group_of_data_parallel_attention_is_a_worker() -> None:
    """Its GPUs are the group's, its experts are spread over all of the engine's, and its KV is what fits beside them."""
    found = expressed(ROW)
    assert found.prefill == "roofline:h200:deepseek-v3:tp1:ep8:w8a8kv8"
    assert found.decode == "roofline:h200:deepseek-v3:tp8:ep8:w8a8kv8"
    assert (found.prefill_workers, found.decode_workers) == (16, 1)
    assert 0 < kv_blocks(found.prefill) < kv_blocks(found.decode)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clients": None}, "how many requests"),
        ({"gpu": "tpu"}, "no hardware"),
        ({"model": "x/y"}, "no model"),
        ({"precision": "int3"}, "no bits"),
        ({"decode": Side(1, 8, 1, 4, 8)}, "4 of the 8 GPUs"),
        ({"decode": Side(1, 2, 1, 1, 2)}, "no room"),
        ({"model": "Qwen/Qwen3-32B", "decode": Side(1, 1, 2, 1, 2), "prefill": Side(1, 1, 1, 1, 1)}, "without experts"),
    ],
)
def test_what_cannot_be_said_in_the_simulators_words_has_its_reason(changes: dict[str, object], reason: str) -> None:
    """One for each thing that a row may lack or have."""
    with pytest.raises(UnexpressedError, match=reason):
        expressed(_changed(**changes))


def test_a_cluster_of_a_row_hands_over_and_refuses_nobody() -> None:
    """Each pool has the step times of its own layout, and a pace that was asked for is in all of them."""
    slow = Pace(decode=2.0).of(expressed(ROW))
    once, twice = ({pool.role: pool for pool in spec(each).pools} for each in (expressed(ROW), slow))
    assert spec(slow).first_from_decode
    for role, times in ((Role.PREFILL, 1.0), (Role.DECODE, 2.0)):
        before, after = once[role].step, twice[role].step
        assert before is not None
        assert after is not None
        assert after.decode_s(8, 8000) == pytest.approx(times * before.decode_s(8, 8000))


@given(st.integers(1, 48), st.integers(1, 48), st.integers(1, 4000))
def test_a_part_of_a_deployment_has_the_same_share_of_clients_for_every_worker(prefill: int, decode: int, clients: int) -> None:
    """All is divided by one number, or nothing is; what is left has clients enough, unless there were too few from the beginning."""
    whole = Deployment("p", "d", prefill, decode, clients, 1000, 100, 8)
    found = part(whole)
    by = whole.clients // found.clients
    assert (found.prefill_workers * by, found.decode_workers * by, found.clients * by) == (prefill, decode, clients)
    assert found.clients >= min(clients, 128)
    assert found.gpus == whole.gpus


def test_lengths_are_those_of_the_measured_load() -> None:
    """Evenly from four fifths of the nominal length up to it."""
    found = requests(Deployment("p", "d", 1, 1, 100, 1000, 200, 8), 10, random.Random(1))
    assert len(found) == 1000
    assert {800, 1000} <= {request.prompt_tokens for request in found} <= set(range(800, 1001))
    assert {160, 200} <= {request.output_tokens for request in found} <= set(range(160, 201))


def test_first_requests_count_for_one_in_ten() -> None:
    """However many of the later ones were left out."""
    records = [_record(10.0, 0.01), _record(10.0, 0.01), _record(1.0, 0.02), _record(3.0, 0.02)]
    found = means(records, 2)
    assert found.ttft_s == pytest.approx(0.1 * 10.0 + 0.9 * 2.0)
    assert found.tpot_s == pytest.approx(0.1 * 0.01 + 0.9 * 0.02)


def _record(ttft_s: float, tpot_s: float) -> Record:
    record = Record(TraceRequest(0.0, 10, 3), 0.0)
    for number in range(3):
        record.came(1, ttft_s + number * tpot_s)
    return record


def _toy(deployment: Deployment) -> Means:
    """Prompts take a tenth of a second of a prefill worker; a step grows with the requests that a decode worker has."""
    prompts_s = 0.1 * deployment.clients / deployment.prefill_workers
    step_s = 0.001 * deployment.clients / deployment.decode_workers
    return Means(prompts_s, step_s)


@pytest.mark.parametrize(("ttft_s", "tpot_s", "best_gpus"), [(4.0, 10.0, 56), (1000.0, 0.02, 8)])
def test_the_sweep_finds_the_side_that_is_short(ttft_s: float, tpot_s: float, best_gpus: int) -> None:
    """Where only prompts have to be quick, most GPUs are for prompts; where only answers, most are for those. No ratio breaks a promise."""
    sides = {"prefill": Side(2, 1, 8, 8, 16), "decode": Side(6, 1, 8, 8, 48)}
    found = divisions(_changed(**sides, clients=1024, ttft_s=ttft_s, tpot_s=tpot_s), _toy)
    assert [division.prefill_gpus for division in found] == [8, 16, 24, 32, 40, 48, 56]
    assert all(division.prefill_gpus + division.decode_gpus == 64 for division in found)
    assert max(found, key=lambda division: division.clients).prefill_gpus == best_gpus
    for division in found:
        assert division.means is None or (division.means.ttft_s <= ttft_s and division.means.tpot_s <= tpot_s)


def test_a_pace_is_found_again() -> None:
    """On rows that were "measured" at known paces, those come out: for prompts the nearest that is tried, for answers exactly."""

    def measure(deployment: Deployment) -> Means:
        plain = _toy(deployment)
        return Means(plain.ttft_s * deployment.prefill_pace, plain.tpot_s * deployment.decode_pace)

    rows = []
    for clients in (128, 512, 900):
        deployment = expressed(_changed(clients=clients))
        truth = measure(Pace(0.52, 1.3).of(deployment))
        rows.append((_changed(clients=clients, ttft_s=truth.ttft_s, tpot_s=truth.tpot_s), deployment))
    assert find_pace(rows, measure) == Pace(0.5, 1.3)
    with pytest.raises(ValueError, match="no rows"):
        find_pace([], measure)


def test_a_ratio_that_keeps_no_promise_has_no_output() -> None:
    """It is told, not left out."""
    found = divisions(_changed(prefill=Side(1, 1, 8, 8, 8), ttft_s=1e-9), _toy)
    assert {(division.clients, division.tokens_per_s_per_gpu) for division in found} == {(0, 0.0)}
    assert "too slow" in divisions_table(ROW, found)


def test_engines_of_two_sizes_are_not_divided() -> None:
    """A GPU cannot then go from one side to the other."""
    with pytest.raises(UnexpressedError, match="different numbers"):
        divisions(_changed(decode=Side(1, 8, 2, 16, 16)), _toy)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5000))
def test_numbers_of_clients_that_are_tried_grow_and_can_be_divided(prefill: int, decode: int, clients: int) -> None:
    """Each is more than the one before, and one that a part of the deployment can be simulated for."""
    deployment = Deployment("p", "d", prefill, decode, clients, 1000, 100, 8)
    found = ladder(deployment)
    assert found == sorted(set(found))
    assert found[0] >= 1
    assert part(deployment).clients <= clients


def test_errors_are_relative_and_below_nothing_where_the_simulation_says_less() -> None:
    """Twice as long to the first token is +100 %; half a step doubles what comes out, but for the wait before."""
    one = Compared(ROW, Means(2.0, 0.01))
    ttft, tpot, tokens = one.errors
    assert ttft == pytest.approx(1.0)
    assert tpot == pytest.approx(-0.5)
    assert tokens == pytest.approx((1.0 + 511 * 0.02) / (2.0 + 511 * 0.01) - 1.0)
    assert "+100%" in rows_table([one])
    assert "| all | 1 | +100% |" in groups_table([one])
    assert "| `x` | because |" in left_out_table({"x": "because"})


def test_the_best_row_gives_most_per_gpu() -> None:
    """Among those that tell how many clients they had."""
    fast, unknown = _changed(name="fast", tpot_s=0.01), _changed(name="unknown", tpot_s=0.001, clients=None)
    assert best([ROW, fast, unknown]).name == "fast"


def test_what_is_known_is_not_simulated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in one process nor in the next; another deployment is."""
    asked: list[Deployment] = []

    def simulated(deployment: Deployment) -> Means:
        asked.append(deployment)
        return Means(1.0, 0.5)

    monkeypatch.setattr("benchmarks.published.runs.simulate", simulated)
    one, other = expressed(ROW), expressed(_changed(clients=2))
    runs = Runs(tmp_path / "folder" / "kept.jsonl")
    assert runs.of_all([one, one]) == [Means(1.0, 0.5)] * 2
    again = Runs(tmp_path / "folder" / "kept.jsonl")
    assert again.of(one) == Means(1.0, 0.5)
    again.of(other)
    assert asked == [one, other]


def test_a_part_of_a_deployment_stands_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the workers for a quarter of the clients waits as long, and makes tokens as fast, within a few per cent."""
    name = "roofline:h200:qwen3-32b:tp1:w8a8kv8"
    whole = Deployment(name, name, 4, 4, 64, 2048, 16, 8)
    monkeypatch.setattr("benchmarks.published.load._ENOUGH_CLIENTS", 16)
    assert part(whole).clients == 16
    quarter = simulate(whole)
    monkeypatch.setattr("benchmarks.published.load._ENOUGH_CLIENTS", 64)
    assert part(whole) == whole
    found = simulate(whole)
    assert quarter.ttft_s == pytest.approx(found.ttft_s, rel=0.05)
    assert quarter.tpot_s == pytest.approx(found.tpot_s, rel=0.05)
