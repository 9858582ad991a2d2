"""``baton simulate``: from a configuration and a trace to a report, and what is said of those that cannot be used."""

import gzip
import io
import json
import lzma
import random
import re
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import BatonConfig
from core.errors import ConfigError
from core.worker import Role
from deploy.check_config import read
from deploy.cli import main
from deploy.synthetic_words import synthetic_of
from simulation.faults import KillWorker, read_faults
from simulation.long_trace import LongRequests
from simulation.of_config import cluster_of, spec_of
from simulation.report import Report
from simulation.report_page import page
from simulation.report_rows import text
from simulation.run import Simulation
from simulation.synthetic import Synthetic
from simulation.trace_files import read_trace
from simulation.traces import Trace, TraceRequest

ROOT = Path(__file__).parents[2]
SIMULATED = {
    "kind": "simulated",
    "simulated": {
        "block_size_tokens": 64,
        "num_blocks": 1024,
        "max_model_len": 8192,
        "timing": {
            "type": "polynomial",
            "prefill_base_s": 0.004,
            "prefill_token_s": 2e-5,
            "prefill_square_s": 0.0,
            "decode_base_s": 0.006,
            "decode_request_s": 1e-5,
            "decode_context_s": 0.0,
        },
    },
}
TRAFFIC = "rate=15 isl=1000 osl=60 seconds=8 hit=0.3"


def config(**changes):
    plain = {
        "model": "demo",
        "engine": SIMULATED,
        "kv_transfer": {"backend": "simulated"},
        "prefill": {"count": 2},
        "decode": {"count": 2},
        "objectives": {"ttft_s": 1.0, "tpot_s": 0.05},
    }
    return BatonConfig.model_validate(plain | changes)


def simulation(seed=1, faults=(), **changes):
    return Simulation(config=config(**changes), trace=synthetic_of(TRAFFIC).trace(random.Random(seed)), faults=faults, seed=seed)


def quiet(moment, offered):
    """Nobody looks."""


@pytest.fixture(scope="module")
def report():
    return simulation(faults=[KillWorker(at_s=3.0, worker="decode-0", back_after_s=1.0)]).run(quiet)


def test_the_same_seed_gives_the_same_report_and_another_one_does_not():
    """To the last byte."""
    first, second, other = (msgspec.json.encode(simulation(seed).run(quiet)) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_a_report_adds_up(report):
    """Every offered request is complete, refused or given up; a slice of time has each of them once."""
    assert report.offered == report.complete + sum(report.refused.values()) + sum(report.given_up.values())
    assert report.good <= report.complete == sum(report.plans.values())
    assert sum(each.offered for each in report.course) == report.offered
    assert sum(each.good for each in report.course) == report.good
    assert report.ttft_s.p50 <= report.ttft_s.p90 <= report.ttft_s.p99 <= report.ttft_s.max
    assert all(0 < part <= 1 for part in report.busy.values())
    assert 0 < report.hit_share < 1
    assert report.kv_bytes > 0


def test_faults_are_reported_with_what_they_cost(report):
    """The killed worker lost nothing, and the run without the fault is told beside it."""
    assert [(each.at_s, each.happened) for each in report.faults] == [(3.0, True)]
    assert report.complete == report.offered
    assert report.carried_on > 0
    assert report.cost is not None
    assert report.cost.failed == 0


def test_gpu_hours_are_those_of_all_who_were_there():
    """Two and two workers of a CPU, which count for one each, to the last arrival."""
    found = simulation().run(quiet)
    assert found.gpu_hours == pytest.approx(4 * found.seconds / 3600)


def test_autoscaling_is_honoured_where_it_is_configured():
    """The production scaler makes plans, and its workers are there."""
    scaled = simulation(autoscaling={"enabled": True, "start_up_s": 1.0, "interval_s": 1.0, "season_s": None}).run(quiet)
    assert scaled.scaling is not None
    assert scaled.scaling.plans >= 7
    assert simulation().run(quiet).scaling is None


def test_the_json_is_the_report_and_docs_tell_of_every_field(report):
    """It can be read back as it is, by its own schema; no field is without a line in docs/simulator.md."""
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report, strict=True) == report
    cells = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "simulator.md").read_text(), re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert set(Report.__struct_fields__) <= documented


def test_the_page_is_one_file_that_loads_nothing(report):
    """No address outside of it but the name of SVG's vocabulary; what was in the configuration is text."""
    hostile = msgspec.structs.replace(report, model="<script>alert(1)</script>")
    made = page(hostile)
    assert set(re.findall(r"https?://[^\"' )]+", made)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)", made)
    assert made.count("<svg") == 6
    assert "prefers-color-scheme: dark" in made


def test_the_text_says_the_same_as_the_page(report):
    """Every row."""
    shown = page(report)
    for line in text(report).splitlines():
        assert not line.startswith("  ") or line.split("  ")[1].strip() in shown


# -- configurations ------------------------------------------------------------------------------------------------------


def test_a_configuration_that_does_not_say_how_long_steps_take_is_told_what_to_write():
    """By the key, with an example."""
    with pytest.raises(ConfigError, match=r"step_times: NAME.*h100-llama-3.1-8b-tp1.*roofline:"):
        spec_of(BatonConfig(model="m"))


@pytest.mark.parametrize(
    ("name", "gpu_gb"), [("h100-llama-3.1-8b-tp1", 80), ("roofline:h100:llama-3.1-8b:tp1", 80), ("roofline:l4:llama-3.1-8b:tp1", 24)]
)
def test_room_for_kv_is_what_weights_leave(name, gpu_gb):
    """0.9 of the GPU's memory, less 16 GB of weights and a few GB beside them, at 128 KiB per token of this model."""
    pool = spec_of(BatonConfig.model_validate({"model": "m", "engine": {"step_times": name}})).pools[0]
    tokens = pool.engine.num_blocks * pool.engine.block_size_tokens
    assert (0.9 * gpu_gb - 16.1 - 5) * 1e9 / 131_072 < tokens < (0.9 * gpu_gb * 1.1 - 16) * 1e9 / 131_072


def test_a_pool_has_its_own_step_times():
    """Of two GPUs per engine for answers, for example."""
    engine = {"step_times": "h100-llama-3.1-8b-tp1"}
    answers = {"step_times": "h100-llama-3.1-8b-tp2", "tensor_parallel_size": 2, "num_gpus": 2}
    plain = {"model": "m", "engine": engine, "prefill": {"num_gpus": 1}, "decode": answers}
    prefill, decode = spec_of(BatonConfig.model_validate(plain)).pools
    assert prefill.step != decode.step
    cluster = cluster_of(BatonConfig.model_validate(plain), 1)
    assert {worker.card.role: worker.engine.timing for worker in cluster.workers.values()} == {
        Role.PREFILL: prefill.step,
        Role.DECODE: decode.step,
    }


def test_a_model_that_does_not_fit_is_said():
    """With what to write instead."""
    engine = {"step_times": "roofline:l4:llama-3.1-70b:tp1"}
    with pytest.raises(ConfigError, match=r"does not fit on 1 x l4.*`:tp2`"):
        spec_of(BatonConfig.model_validate({"model": "m", "engine": engine}))


def test_the_files_that_the_docs_use_are_right():
    """Sixteen workers, and faults of some of them."""
    found = read(ROOT / "docs" / "simulator" / "sixteen.yaml").config
    assert sum(pool.count for pool in spec_of(found).pools) == 16
    assert len(read_faults(ROOT / "docs" / "simulator" / "faults.yaml", {Role.PREFILL: 8, Role.DECODE: 8}, 1)) == 3


# -- traces --------------------------------------------------------------------------------------------------------------

HEAD = "arrival_s,prompt_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("name", "lines", "first"),
    [
        ("a.csv", "arrival_s,prompt_tokens,output_tokens,tenant\n5,100,7,acme\n6.5,200,8,\n", TraceRequest(0.0, 100, 7, (), "acme")),
        (
            "b.jsonl",
            '{"arrival_s": 1, "prompt_tokens": 600, "output_tokens": 7, "block_hashes": [3, 4]}\n',
            TraceRequest(0.0, 600, 7, (3, 4)),
        ),
        ("c.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n", TraceRequest(0.0, 4808, 10)),
        ("d.jsonl", '{"timestamp": 0, "input_length": 6, "output_length": 5, "hash_ids": [9]}\n', TraceRequest(0.0, 6, 5, (9,))),
    ],
)
def test_the_format_of_a_trace_is_seen_by_its_first_line(tmp_path, name, lines, first):
    """Names of files say nothing; the first request is at 0."""
    (tmp_path / name).write_text(lines)
    assert read_trace(tmp_path / name, random.Random(1)).requests[0] == first


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("when,what\n1,2\n", "is like none of the known formats"),
        ("", ": is empty"),
        (HEAD, "there is no request in it"),
        (HEAD + "1,many,3\n", ":2: `prompt_tokens` has to be a whole number of tokens, from 0 on; it is 'many'"),
        (HEAD + "1,5,3\n\n1,-5,3\n", ":4: `prompt_tokens` has to be a whole number of tokens, from 0 on; it is '-5'"),
        (HEAD + "1,5,3.5\n", ":2: `output_tokens` has to be a whole number of tokens, from 0 on; it is '3.5'"),
        (HEAD + "1,5,1e12\n", "from 0 on, at most 1,000,000,000; it is '1e12'"),
        (HEAD + "nan,5,3\n", ":2: `arrival_s` has to be a time in seconds, finite and below 1e+11; it is 'nan'"),
        (HEAD + "1,5,3\ninf,5,3\n", ":3: `arrival_s` has to be a time in seconds, finite and below 1e+11; it is 'inf'"),
        ("arrival_s,prompt_tokens,output\n1,5,3\n", ":1: names no column `output_tokens`; it names arrival_s, prompt_tokens, output"),
        (HEAD + "1,5\n", ":2: has no `output_tokens`; it has arrival_s, prompt_tokens"),
        (HEAD + "1,5,3,acme\n", ":2: has 4 columns, of which the first line names 3"),
        (HEAD.replace("output_tokens", "output_tokens,tenat") + "1,5,3,acme\n", ":2: has `tenat`, which is unknown; it takes arrival_s"),
        ('{"arrival_s": 1}\n', ":1: has no `prompt_tokens`"),
        (
            '{"arrival_s": 1, "prompt_tokens": 1, "output_tokens": 1}\n{oops\n',
            ":2: is no JSON: Expecting property name enclosed in double quotes, at column 2",
        ),
        ('{"arrival_s": 1, "prompt_tokens": 1, "output_tokens": 1}\n[1, 2, 3]\n', ":2: is no JSON object"),
        ('{"arrival_s": 1, "prompt_tokens": true, "output_tokens": 1}\n', ":1: `prompt_tokens` has to be a whole number of tokens"),
        (
            '{"arrival_s": 1, "prompt_tokens": 1, "output_tokens": 1, "block_hashes": ["a"]}\n',
            ":1: `block_hashes` has to be a list of whole",
        ),
        ('{"timestamp": 1, "input_length": 5}\n', ":1: has no `output_length`"),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 1}\n', ":1: `timestamp` has to be a time in 1/1000 s, finite"),
        ('{"timestamp": 1, "input_length": -5, "output_length": 1}\n', ":1: `input_length` has to be a whole number of tokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,5,1\n", ":2: `TIMESTAMP` has to be a date and time"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,-5,1\n", ":2: `ContextTokens` has to be a whole number"),
    ],
)
def test_a_trace_that_cannot_be_read_is_refused_with_the_line(tmp_path, lines, said):
    """And with what its format has."""
    (tmp_path / "trace").write_text(lines)
    with pytest.raises(ConfigError) as refused:
        read_trace(tmp_path / "trace", random.Random(1))
    assert said in str(refused.value)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, lambda text: b"\xef\xbb\xbf" + text], ids=["gz", "xz", "marked"])
def test_a_packed_trace_is_seen_by_how_it_begins_and_said_to_be_damaged_where_it_is(tmp_path, pack):
    """Whatever its name; a byte order mark, as spreadsheets write it, and spaces behind commas are no part of a column's name."""
    file, packed = tmp_path / "trace", pack(HEAD.replace(",", ", ").encode() + b"0, 100, 7\n2, 50, 5\n" * 9)
    file.write_bytes(packed)
    assert len(read_trace(file, random.Random(1)).requests) == 18
    if not packed.startswith(b"\xef"):
        for damaged in (packed[: len(packed) // 2], packed[:20] + b"zzzzz" + packed[25:]):
            file.write_bytes(damaged)
            with pytest.raises(ConfigError, match="trace: is packed, and damaged: "):
                read_trace(file, random.Random(1))


def test_what_cannot_be_read_at_all_is_said_in_a_few_words(tmp_path):
    """A folder, a file that is not there, a picture."""
    (tmp_path / "picture").write_bytes(b"\x89PNG\xff\xfe")
    for name, said in ((".", "cannot be read: Is a directory"), ("nowhere", "cannot be read: No such file"), ("picture", "is no text")):
        with pytest.raises(ConfigError, match=said):
            read_trace(tmp_path / name, random.Random(1))


def test_requests_without_tokens_are_left_out_and_counted(tmp_path):
    """In the trace, the report and its text; where there are no others, the message says how many there were."""
    (tmp_path / "t.csv").write_text(HEAD + "0,0,5\n1,100,7\n2,50,0\n3,50,5\n")
    trace = read_trace(tmp_path / "t.csv", random.Random(1))
    assert (len(trace.requests), trace.empty) == (2, 2)
    report = Simulation(config=config(), trace=trace).run(quiet)
    assert (report.offered, report.empty, report.left_out) == (2, 2, 0)
    assert "left out  of the trace: 2 without tokens in prompt or answer" in text(report)
    (tmp_path / "t.csv").write_text(HEAD + "0,0,5\n1,10,0\n")
    with pytest.raises(ConfigError, match=r"t\.csv: all of its 2 requests were left out, as their prompt or answer has no tokens"):
        read_trace(tmp_path / "t.csv", random.Random(1))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "`rate` and `isl` and `osl` and `seconds` are missing"),
        ("rate=20 isl=100 osl=10", "`seconds` is missing"),
        ("rate=0 isl=100 osl=10 seconds=5", "`rate` is '0': give a number above 0"),
        ("rate=1 isl=0.5 osl=10 seconds=5", "`isl` is '0.5': give a whole number"),
        ("rate=1 isl=8m osl=10 seconds=5", "`isl` is '8m': give a whole number from 1 on, such as 2048 or 8k"),
        ("rate=1 isl=20m osl= seconds=5", "`isl` is '20m': give a whole number from 1 on"),
        ("rate=1 isl=20000k osl=9 seconds=5", "`isl` and `osl` must be at most 10,000,000"),
        ("rate=1 rate=2 isl=100 osl=10 seconds=5", "`rate` is there twice"),
        ("rate=1 isl=100 osl=10 seconds=5 colour=red", "`colour` is unknown; known: rate, isl"),
        ("rate=1 isl=100 osl=10 seconds=5 Hti=0.2", "`Hti` is unknown; perhaps `hit` was meant"),
        ("rate=1 isl=100 osl=10 seconds=5 burst=3", "`burst` needs `burst_for`"),
        ("rate=1 isl=100 osl=10 seconds=5 burst_for=3", "`burst_for` needs `burst`"),
        ("rate=1 isl=100 osl=10 seconds=5 burst=3 burst_at=nan burst_for=1", "`burst_at` is 'nan'"),
        ("rate=1e9 isl=100 osl=10 seconds=1e9", "this is some 1,000,000,000,000,000,000 requests, and must be at most 10,000,000"),
    ],
)
def test_synthetic_words_that_make_no_sense_are_refused_with_an_example(words, said):
    """Of how to write it."""
    with pytest.raises(ConfigError) as refused:
        synthetic_of(words)
    assert said in str(refused.value)
    assert "rate=20 isl=1000" in str(refused.value)


def test_synthetic_words_are_written_as_baton_plan_takes_them():
    """Lengths in thousands, times in their units, shares in percent; spaces around `=`, and commas between."""
    made = synthetic_of("rate = 20, isl=8k, osl=1k, seconds=2500ms, hit=30%, burst=2 burst_at=0 burst_for=1s")
    assert made == Synthetic(rate=20.0, isl=8192, osl=1024, seconds=2.5, hit=0.3, burst=2.0, burst_at=0.0, burst_for=1.0)


def test_synthetic_traffic_is_what_was_asked_for():
    """Rate, mean lengths and burst, to a few percent of a long one."""
    made = synthetic_of("rate=20 isl=1000 osl=200 seconds=1000 burst=3 burst_at=500 burst_for=100").trace(random.Random(1)).requests
    within = [each for each in made if 500 <= each.arrival_s < 600]
    assert len(made) == pytest.approx(20 * 900 + 60 * 100, rel=0.03)
    assert len(within) == pytest.approx(6000, rel=0.05)
    assert sum(each.prompt_tokens for each in made) / len(made) == pytest.approx(1000, rel=0.03)
    assert sum(each.output_tokens for each in made) / len(made) == pytest.approx(200, rel=0.03)


NAMES_BELOW_0 = Trace("below", [TraceRequest(float(at_s), 512, 5, (at_s - 2,)) for at_s in range(5)], 512)
ONCE = Trace("once", [TraceRequest(float(number), 1024, 5, (2 * number, 2 * number + 1)) for number in range(10)], 512)


@given(seconds=st.floats(0.1, 100.0), scale=st.floats(0.1, 10.0))
def test_a_trace_that_is_repeated_goes_on_at_its_rate_and_shares_nothing(seconds, scale):
    """Arrivals are in order and within the time; what comes again has blocks of its own; the rate is the trace's."""
    requests = LongRequests(ONCE, seconds, scale, 256)
    arrivals = [each.arrival_s for each in requests]
    assert arrivals == sorted(arrivals)
    assert all(at_s < seconds * (1 + 1e-9) for at_s in arrivals)
    assert len(requests) == pytest.approx(seconds * scale, abs=1.001)
    blocks = [block for each in requests for block in each.block_hashes]
    assert len(blocks) == len(set(blocks)) == 4 * len(requests)


def test_blocks_with_names_below_zero_are_not_shared_by_the_next_round():
    """Hashes may be signed."""
    blocks = [block for each in LongRequests(NAMES_BELOW_0, 20.0, 1.0, 512) for block in each.block_hashes]
    assert len(blocks) == len(set(blocks)) == 20


# -- the command ---------------------------------------------------------------------------------------------------------

SOME = ["--synthetic", "rate=5 isl=500 osl=20 seconds=3"]
FILE = """\
applications:
  - name: baton
    import_path: deploy.app:build
    args:
      model: demo
      engine: {kind: simulated, simulated: {timing: {type: named, name: h100-llama-3.1-8b-tp1}, num_blocks: 4096, block_size_tokens: 64}}
      kv_transfer: {backend: simulated}
"""


def test_the_command_writes_what_it_is_asked_for(tmp_path, capsys):
    """Text on stdout, JSON and page in files; numbers of workers from the command line."""
    (tmp_path / "c.yaml").write_text(FILE)
    (tmp_path / "f.yaml").write_text("faults:\n- {at_s: 1, fault: kill_worker, worker: decode-1}\n")
    asked = ["simulate", str(tmp_path / "c.yaml"), "--synthetic", "rate=5 isl=500 osl=20 seconds=3", "--decode", "2", "--no-cost"]
    files = ["--faults", str(tmp_path / "f.yaml"), "--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]
    assert main([*asked, *files]) == 0
    out = capsys.readouterr().out
    assert "1 prefill and 2 decode workers" in out
    assert "decode-1 is killed" in out
    assert json.loads((tmp_path / "r.json").read_text())["workers"] == {"prefill": 1, "decode": 2}
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--synthetic", "rate=5"], "write it like"),
        (["--trace", "nowhere.jsonl"], "cannot be read"),
        ([*SOME, "--decode", "0"], "--decode: has to be at least 1, not 0"),
        ([*SOME, "--prefill", "20000"], "20,001 workers are too many to be simulated"),
        ([*SOME, "--model", "other"], "c.yaml: does not serve `other`, but demo"),
        ([*SOME, "--json", "."], ". is a folder; name a file in it"),
        ([*SOME, "--json", "r", "--html", "./r"], "r would be written twice"),
        ([*SOME, "--seconds", "1e9"], "this would last 1,000,000,000 s; at most 10,000,000 s can be simulated"),
        ([*SOME, "--seconds", "9000000", "--scale-rate", "9"], "requests; at most 10,000,000 can be simulated"),
        ([*SOME, "--faults", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file or directory"),
        (["--synthetic", "rate=5 isl=500 osl=20 seconds=3", "--json", "/nowhere/r.json"], "there is no folder /nowhere"),
        (["--synthetic", "rate=5 isl=500000 osl=20 seconds=3"], "every request is longer than `max_model_len`"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_with_1(tmp_path, capsys, options, said):
    """One line, no traceback."""
    (tmp_path / "c.yaml").write_text(FILE)
    assert main(["simulate", str(tmp_path / "c.yaml"), *options]) == 1
    assert said in capsys.readouterr().err


def test_who_stops_reading_has_the_files_nevertheless(tmp_path, monkeypatch):
    """`baton simulate ... --json FILE | head -1`: the files are written first, and it is no error."""

    class Left(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    (tmp_path / "c.yaml").write_text(FILE)
    monkeypatch.setattr(sys, "stdout", Left())
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # the command closes it
    assert main(["simulate", str(tmp_path / "c.yaml"), *SOME, "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["offered"] > 0


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "{at_s: 1, fault: kill_worker, worker: decode-7}",
            "no worker `decode-7` at the beginning; they are prefill-0 and decode-0 to decode-1",
        ),
        ("{at_s: 1, fault: restart_router, router: 3}", "there is no router 3; there is one, 0"),
        ("{at_s: .nan, fault: kill_worker, worker: decode-0}", "`at_s` must be at least 0, and finite"),
        ("{at_s: 1, fault: cut_link, worker: decode-0, for_s: .inf}", "`for_s` must be at least 0, and finite"),
        ("{at_s: 1, fault: slow_worker, worker: decode-0, for_s: 1, factor: 1.0e+9}", "`factor` must be above 0, and at most 1,000"),
    ],
)
def test_faults_that_cannot_be_are_refused(tmp_path, entry, said):
    """Some of them were simulated for ever."""
    (tmp_path / "f.yaml").write_text(f"faults:\n- {entry}\n")
    with pytest.raises(ConfigError) as refused:
        read_faults(tmp_path / "f.yaml", {Role.PREFILL: 1, Role.DECODE: 2}, 1)
    assert said in str(refused.value)


def test_a_fault_behind_the_end_is_reported_as_such():
    """It did not happen."""
    report = simulation(faults=[KillWorker(at_s=5000.0, worker="decode-0")]).run(quiet, with_cost=False)
    assert "did not happen: it was not there any more, or all was over" in text(report)
