"""``baton plan``: what is asked, what is told, and the file that is written."""

import json
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from core.step_model import StepWork
from deploy.check_config import check
from deploy.cli import main
from deploy.plan.answer import LINKS_GBPS, answer
from deploy.plan.check import requests_of, simulated
from deploy.plan.faults import Faults
from deploy.plan.hub_names import HUB_NAMES
from deploy.plan.names import gpus_by_name, model_name
from deploy.plan.pictures import pictures
from deploy.plan.quantities import count, gpu, price, seconds, share
from deploy.plan.question import Question
from deploy.plan.serve_yaml import picked, serve_yaml
from deploy.plan.text import table, text
from deploy.plan.told import told
from deploy.plan.traffic import workload_of
from deploy.plan.virtual import cluster_of
from engine.performance.plan.workload import Objectives, Workload
from engine.performance.roofline.find_model import shipped_models
from engine.performance.roofline.step import Step
from simulation.traces import Trace, TraceRequest

ASK = ["plan", "llama-3.1-8b", "--gpu", "h100", "--tp", "1"]
LENGTHS = ["--isl", "2k", "--osl", "200"]
PROMISES = ["--ttft", "1s", "--tpot", "30ms"]


def question(**changes):
    asked = {
        "model": "llama-3.1-8b",
        "gpus": {"h100": None},
        "most_gpus": 4,
        "workload": Workload(2048, 200),
        "asked": Objectives(1.0, 0.03),
        "tps": (1, 2),
    }
    return Question(**{**asked, **changes})


def best_split(found, suits=lambda set_up: True):
    return next(each for each in found.plan.ranked if each.set_up.prefill is not None and suits(each.set_up))


@pytest.fixture(scope="module")
def found():
    return answer(question(rate_per_s=5.0))


@pytest.mark.parametrize(
    ("read", "written", "value"),
    [
        (seconds, "30ms", 0.03),
        (seconds, "2s", 2.0),
        (seconds, "0.5", 0.5),
        (count, "8k", 8192),
        (count, "300", 300),
        (share, "90%", 0.9),
        (share, "0.9", 0.9),
        (price, "h100=2.50", ("h100", 2.5)),
        (gpu, "h100", ("h100", None)),
        (gpu, "h100:8", ("h100", 8)),
        (gpu, "/my/gpus.yaml#mine:8", ("/my/gpus.yaml#mine", 8)),
    ],
)
def test_quantities(read, written, value):
    """As people write them."""
    assert read(written) == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*LENGTHS, *PROMISES], "say how many GPUs there are"),
        (["--gpus", "4", *PROMISES], "say how long prompts and answers are"),
        (["--gpus", "4", *LENGTHS, "--trace", "x.jsonl", *PROMISES], "leave out --isl and --osl"),
        (["--gpus", "4", "--trace", "nowhere.jsonl", *PROMISES], "nowhere.jsonl: cannot be read"),
        (["--gpus", "4", *LENGTHS, *PROMISES, "--price", "h200=2"], "'h200' is none of the GPUs asked about"),
        (["--gpus", "4", *LENGTHS, *PROMISES, "--gpu", "mi300x", "--by", "price"], "say --price mi300x=DOLLARS"),
        (["--gpus", "4", *LENGTHS, *PROMISES, "--gpu", "h1000"], "no hardware is called 'h1000'; known: h100"),
        (["--gpus", "4", *LENGTHS, *PROMISES, "--gpu", "H100:4"], "h100 is there twice; write it once, with how many there are in all"),
        (["--gpus", "4", *LENGTHS, *PROMISES, "--price", "h100=2", "--price", "H100=3"], "h100 has two prices; write one"),
        (["--gpus", "4", *LENGTHS, *PROMISES, "-o", "/nowhere/plan.yaml"], "-o: there is no folder /nowhere; make it first"),
        (["--gpus", "4", *LENGTHS, *PROMISES, "-o", "/tmp"], "-o: /tmp is a folder; name a file, such as /tmp/plan.yaml"),
        (["--gpus", "4", *LENGTHS, *PROMISES, "--svg", "/dev/null/x"], "--svg: /dev/null is a file; name a folder"),
        (["--gpus", "4", *LENGTHS, *PROMISES, "--precision", "w5"], "'w5' is no precision"),
        (["--gpus", "4", *LENGTHS, "--ttft", "1ms", "--tpot", "30ms"], "Nothing keeps 0.001 s to the first token"),
    ],
)
def test_what_cannot_be_asked(arguments, said, capsys):
    """Says what is wrong and what to write instead; exits with 1."""
    assert main([*ASK, *arguments]) == 1
    assert said in capsys.readouterr().err


def test_kinds_of_gpus_that_are_there_twice(tmp_path, capsys):
    """Nobody guesses which is meant: neither of two numbers, nor of two kinds with one name."""
    assert main(["plan", "llama-3.1-8b", "--gpu", "h100:8", "--gpu", "h100:4", *LENGTHS, *PROMISES]) == 1
    assert "(--gpu h100:12)" in capsys.readouterr().err
    faults, own = Faults(), f"{tmp_path}/gpus.yaml#h100"
    assert gpus_by_name(faults, [("H100", 2), (own, 2)]) == {"h100": 2}
    with pytest.raises(ConfigError, match="have the same name"):
        faults.refuse()


@pytest.mark.parametrize("written", ["Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", "META-LLAMA/llama-3.1-8b-instruct"])
def test_names_as_people_write_them(written, capsys):
    """In any letters, and of weights on the hub: it is the shape that comes with Baton; so are GPUs and their prices."""
    asked = ["--gpu", "H100", "--gpus", "2", "--tp", "1", "--price", "H100=7", *LENGTHS, *PROMISES, "--json"]
    assert main(["plan", written, *asked]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["ranked"][0]["decode"]["gpu"]) == ("llama-3.1-8b", "h100")
    assert report["ranked"][0]["dollars_per_h"] == 7.0 * report["ranked"][0]["gpus"]


def test_a_folder_of_ones_own_goes_before_names(tmp_path, monkeypatch):
    """As weights are cloned into folders that are called like them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Llama-3.1-8B").mkdir()
    (tmp_path / "Llama-3.1-8B" / "config.json").write_text("{}")
    assert model_name("Llama-3.1-8B") == "Llama-3.1-8B"
    assert model_name("llama-3.1-70B") == "llama-3.1-70b"
    assert model_name("nobody/Nothing") == "nobody/Nothing"


def test_a_model_that_is_nowhere_or_too_large(capsys):
    """Of a name that is not in the cache it is said where was looked and how it gets there; of a model without room, what it needs."""
    rest = ["--gpu", "l4", "--gpus", "8", *LENGTHS, *PROMISES]
    assert main(["plan", "nobody/nothing", *rest]) == 1
    said = capsys.readouterr().err
    assert "is no folder with a config.json, no such file, not in the Hugging Face cache" in said
    assert "`hf download nobody/nothing config.json` gets what is needed" in said
    assert main(["plan", "llama-3.1-405b", *rest]) == 1
    assert re.search(r"fits on none of these GPUs:\n  l4 tp1: too little room: \d+ GB of weights", capsys.readouterr().err)


def test_what_has_no_room(capsys):
    """Weights that are larger than a node: no worker goes over several, and what to do. Requests that are too long: what their KV takes."""
    rest = ["--gpus", "64", "--osl", "200", *PROMISES]
    assert main(["plan", "deepseek-v3", "--gpu", "h100", "--isl", "2k", *rest]) == 1
    said = capsys.readouterr().err
    assert "h100 tp8: too little room: 85 GB of weights and 3 GB besides, of 77 GB\n" in said
    assert "workers over several nodes (pipeline parallelism) are not planned. Take GPUs with more memory, fewer bits (--pre" in said
    assert main(["plan", "deepseek-v3", "--gpu", "h100", "--isl", "2k", "--precision", "w4a16kv8", *rest]) == 0
    assert main(["plan", "llama-3.1-70b", "--gpu", "l40s", "--tp", "4", "--isl", "120k", *rest]) == 1
    said = capsys.readouterr().err
    kv = "KV of one request of 123,080 tokens is 10.1 GB, and 5.4 GB are left of 43 GB by 35 GB of weights and 3 GB besides"
    assert f"l40s tp4: too little room: {kv}\n" in said
    assert main(["plan", "llama-3.1-70b", "--gpu", "h100", "--tp", "1,16", "--isl", "2k", *rest]) == 1
    assert "h100 tp16: a node has 8, and a worker over several nodes is not planned\n" in capsys.readouterr().err


def test_all_that_is_wrong_is_said_at_once(capsys):
    """The model first, then GPUs and prices, then the workload: a line for each, whatever else is wrong."""
    asked = ["nosuch", "--gpu", "h1000", "--gpu", "h100", "--price", "h200=2", "--precision", "w5", *PROMISES]
    assert main(["plan", *asked]) == 1
    lines = capsys.readouterr().err.splitlines()
    expected = ["model: 'nosuch' is no", "hardware: no hardware is called 'h1000'", "--price: 'h200'", "--gpus: say how many"]
    expected += ["precision: 'w5'", "--isl, --osl: say how long"]
    assert [line[: len(begin)] for line, begin in zip(lines, expected, strict=True)] == expected
    assert main(["plan", "nosuch", *LENGTHS, *PROMISES]) == 1
    said = capsys.readouterr().err
    assert said.index("'nosuch' is no folder") < said.index("say which kind of GPU") < said.index("say how many GPUs")


@pytest.mark.parametrize("written", [["--ttft", "soon"], ["--gpus", "0"], ["--hit-rate", "1"], ["--price", "2.50"], ["--tp", "2.5"]])
def test_what_is_no_quantity(written, capsys):
    """Is refused by its argument's name, with an example."""
    with pytest.raises(SystemExit):
        main([*ASK, *LENGTHS, *PROMISES, *written])
    assert f"argument {written[0]}: '{written[1]}': give" in capsys.readouterr().err


def test_text_and_json_say_the_same(found):
    """The best set-up's workers, rate and times are in both, and JSON has no number that JSON does not know."""
    report = json.loads(json.dumps(told(found), allow_nan=False))
    shown = text(found, 3)
    best = report["smallest"][0]
    assert report["verdict"] in shown
    assert f"{best['decode']['workers']} x h100 tp{best['decode']['tensor_parallel_size']}" in shown
    assert f"{best['most_per_s']:.2f}/s" in shown
    assert {"ttft_s", "tpot_s", "dollars_per_million_tokens", "kv_gbps_per_gpu", "bound_by"} <= set(best)
    assert [each["gbps_per_gpu"] for each in report["networks"]] == list(LINKS_GBPS)


def test_the_smallest_carries_the_rate(found):
    """It does, at promises kept, and none that carries it has fewer GPUs."""
    assert found.smallest
    for each in found.smallest:
        assert each.most_per_s >= 5.0 * (1 - 1e-6)
        assert each.pace.ttft_s <= 1.0
        assert each.pace.tpot_s <= 0.03
        assert each.set_up.gpus >= found.smallest[0].set_up.gpus
    assert answer(question(rate_per_s=1e6)).smallest == ()


def test_the_verdict_is_on_what_was_asked(capsys):
    """With a rate and a number of GPUs: on what carries the rate, in text and JSON, as the first table and ``-o`` have it; the other one,
    for the most requests, is told as such."""
    asked = ["plan", "llama-3.1-70b", "--gpu", "h100", "--gpus", "16", "--isl", "2048", "--osl", "256", *PROMISES, "--rate", "3"]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    said = "Do not disaggregate: 1 x h100 tp4, steps of 512 tokens, on 4 GPUs instead of the 6 of 1 x h100 tp2 for prompts"
    assert shown.index(said) < shown.index("The smallest that carry 3") < shown.index("At the limit of 16 GPUs: Disaggregate: 5")
    assert main([*asked, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"].startswith(said)
    assert report["verdict_at_limit"].startswith("Disaggregate: 5 x h100 tp2")
    assert (report["disaggregate"], report["smallest"][0]["prefill"]) == (False, None)
    assert main([*asked[:-1], "300", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report["disaggregate"]) == ("Nothing carries 300 requests per second with 16 GPUs.", None)


def test_numbers_are_those_to_pick_by(found):
    """Rows have a number where ``--pick`` takes that row: with a rate in the first table alone."""
    lines = text(found, 3).splitlines()
    first, second = (next(n for n, line in enumerate(lines) if line.startswith(begin)) for begin in ("The smallest", "With "))
    for line in lines[first + 2 : first + 5]:
        set_up = picked(found, int(line.split()[0])).set_up
        assert f"{set_up.decode_workers} x {set_up.decode.name}, {set_up.decode.budget_tokens}  " in line
    assert all(re.match(r"\(both\) |\d+ x ", line) for line in lines[second + 2 : second + 5])
    asked_for_most = text(answer(question(tps=(1,))), 3).splitlines()
    assert any(line.startswith("1  ") for line in asked_for_most)


def test_limits_of_each_kind_are_kept():
    """Two kinds of GPUs: a role may have its own, and nobody takes more of one than there are."""
    mixed = answer(question(gpus={"h100": 2, "l40s": 4}, most_gpus=None, tps=(1,)))
    pairs = set()
    for each in mixed.plan.ranked:
        used = {"h100": 0, "l40s": 0}
        for engine, workers in ((each.set_up.prefill, each.set_up.prefill_workers), (each.set_up.decode, each.set_up.decode_workers)):
            if engine is not None:
                used[engine.gpu] += engine.gpus * workers
        assert used["h100"] <= 2
        assert used["l40s"] <= 4
        pairs.add((each.set_up.prefill.gpu if each.set_up.prefill else None, each.set_up.decode.gpu))
    assert {("h100", "l40s"), ("l40s", "h100"), (None, "h100")} <= pairs


@settings(max_examples=15, deadline=None)
@given(st.floats(1.0, 800.0), st.floats(1.0, 4.0))
def test_a_faster_network_never_harms(found, gbps, faster):
    """With more bandwidth the same set-up carries no less, and hands over no later at the same rate."""
    slow, fast = found.over(found.split, gbps), found.over(found.split, gbps * faster)
    assert (fast.rate_per_s if fast else 0.0) >= (slow.rate_per_s if slow else 0.0) * (1 - 1e-6)
    if slow and fast:
        assert fast.set_up.handover_s(slow.rate_per_s) <= slow.set_up.handover_s(slow.rate_per_s)


@settings(max_examples=8, deadline=None)
@given(st.floats(0.3, 3.0), st.floats(0.015, 0.1), st.floats(1.0, 3.0))
def test_softer_promises_never_harm(ttft_s, tpot_s, softer):
    """Who is promised less gets in in greater numbers."""

    def best(factor):
        asked = Objectives(ttft_s * factor, tpot_s * factor)
        return answer(question(asked=asked, tps=(1,))).plan.ranked[0].rate_per_s

    assert best(softer) >= best(1.0) * (1 - 1e-6)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_file_is_one_that_baton_takes(found, number):
    """Workers, sizes, steps and promises of the set-up that was picked, by the schema that `baton up` reads with."""
    ranked = picked(found, number)
    config = check(serve_yaml(found, ranked, "plan.yaml"), "plan.yaml").config
    set_up = ranked.set_up
    assert (config.prefill.count, config.decode.count) == (set_up.prefill_workers, set_up.decode_workers)
    assert config.decode.num_gpus == config.decode.tensor_parallel_size == set_up.decode.gpus
    assert config.decode.engine_args["max_num_batched_tokens"] == set_up.decode.budget_tokens
    assert (config.objectives.ttft_s, config.objectives.tpot_s) == (1.0, 0.03)
    assert config.model == "meta-llama/Llama-3.1-8B-Instruct"
    assert config.decode.step_times == f"roofline:h100:llama-3.1-8b:tp{set_up.decode.gpus}"


def test_the_file_of_two_kinds_of_gpus_and_other_bits():
    """Each pool is tied to its kind of node, and vLLM is told the bits."""
    mixed = answer(question(gpus={"h100": 2, "l40s": 2}, most_gpus=None, tps=(1,), precision="w8a8kv8"))
    ranked = best_split(mixed, lambda set_up: set_up.prefill.gpu != set_up.decode.gpu)
    config = check(serve_yaml(mixed, ranked, "plan.yaml"), "plan.yaml").config
    assert list(config.decode.resources) == [f"accelerator_type:{ranked.set_up.decode.gpu.upper()}"]
    assert (config.engine.args["quantization"], config.engine.args["kv_cache_dtype"]) == ("fp8", "fp8")
    with pytest.raises(ConfigError, match="there are"):
        picked(mixed, 999)


def test_no_file_where_nothing_carries_the_rate(tmp_path, capsys):
    """It would not do what was asked; the answer is printed, and the rate that is named instead does get a file."""
    path, rest = tmp_path / "plan.yaml", [*ASK, "--gpus", "4", *LENGTHS, *PROMISES]
    assert main([*rest, "-o", str(path), "--rate", "1000"]) == 1
    shown = capsys.readouterr()
    assert "Nothing carries 1000 requests per second with 4 GPUs." in shown.out
    assert f"-o: {path} is not written, as nothing carries 1000 requests" in shown.err
    assert not path.exists()
    (rate,) = re.findall(r"--rate ([0-9.]+)\)", shown.err)
    assert main([*rest, "-o", str(path), "--rate", rate]) == 0
    assert path.exists()


def test_no_file_for_a_cpu(tmp_path, capsys):
    """The file would ask for GPUs: said before anything is looked up."""
    path = tmp_path / "plan.yaml"
    asked = ["plan", "llama-3.1-8b", "--gpu", "xeon-8480", "--gpus", "4", *LENGTHS, "--ttft", "9s", "--tpot", "200ms"]
    assert main([*asked, "-o", str(path)]) == 1
    assert "-o: xeon-8480 is no GPU" in (said := capsys.readouterr().err)
    assert "deploy/config/cpu-demo.yaml" in said
    assert not path.exists()
    assert main(asked) == 0


def test_json_is_printed_whatever_fails(tmp_path, monkeypatch, capsys):
    """Files that cannot be written and simulations that fail cost only themselves: the answer is there, with what went wrong beside it."""

    def refuse(*args):
        raise ConfigError("no such thing", "simulation")

    monkeypatch.setattr("deploy.plan.check.check", refuse)
    monkeypatch.setattr("pathlib.Path.mkdir", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    files = ["-o", str(tmp_path / "plan.yaml"), "--pick", "999", "--svg", str(tmp_path / "drawn")]
    assert main([*ASK, "--gpus", "4", *LENGTHS, *PROMISES, "--json", "--check", *files]) == 1
    shown = capsys.readouterr()
    assert (report := json.loads(shown.out))["ranked"]
    assert report["checked"] is None
    said = [line for line in shown.err.splitlines() if " s  " not in line]
    assert said == [
        f"{tmp_path / 'drawn'}: cannot be written: No space left on device",
        f"--pick: there are {len(report['ranked'])} set-ups",
        "simulation: no such thing",
    ]


def test_nobody_reads_it(tmp_path):
    """``baton plan ... -o FILE | head``: the file is written all the same, and nothing is said of a broken pipe."""
    path = tmp_path / "plan.yaml"
    command = [sys.executable, "-m", "deploy.cli", *ASK, "--gpus", "4", *LENGTHS, *PROMISES, "-o", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0
    assert re.fullmatch(r" *[0-9.]+ s  wrote .*\n", said)
    assert path.exists()


def test_every_shape_has_weights():
    """Whatever comes with Baton can be written into a file to be served."""
    assert sorted(HUB_NAMES) == shipped_models()


def test_pictures_are_svg(found):
    """A roofline of each engine, and the curve of promises, all well-formed."""
    drawn = dict(pictures(found))
    assert "pareto.svg" in drawn
    assert any(name.startswith("roofline-h100") for name in drawn)
    for svg in drawn.values():
        assert ET.fromstring(svg).tag.endswith("svg")


def test_a_trace_as_a_workload():
    """Means, what repeats (with room for it only), and how unlike the lengths are."""
    requests = [TraceRequest(0.0, 1024, 10, (1, 2)), TraceRequest(1.0, 1536, 30, (1, 2, 3)), TraceRequest(2.0, 512, 20, (9,))]
    requests.append(TraceRequest(3.0, 1024, 20, (1, 2)))
    trace = Trace("made", requests, 512)
    work = workload_of(trace)
    assert (work.input_tokens, work.output_tokens) == (1024, 20)
    # The second finds two blocks, the last all of its own, but for the last token.
    assert work.hit_rate == pytest.approx((1024 + 1023) / 4096)
    assert sorted(each.new_tokens for each in work.prompts) == [1, 512, 512, 1024]
    assert work.answer_variation == pytest.approx(50 / 400)
    assert workload_of(trace, cache_tokens=512).hit_rate < work.hit_rate
    assert workload_of(trace, hit_rate=0.5).hit_rate == pytest.approx(0.5)


def test_a_trace_of_one_moment_is_planned_for_without_a_rate(tmp_path, capsys):
    """With GPUs it is answered; without, there is nothing to be carried, and that is said."""
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "5,1000,70\n" * 3)
    asked = [*ASK, "--trace", str(tmp_path / "t.csv"), *PROMISES]
    assert main([*asked, "--gpus", "2"]) == 0
    assert main(asked) == 1
    assert "--trace: its requests all come at one moment" in capsys.readouterr().err


def test_unlike_lengths_cost():
    """Lengths as different as a trace's need more than the same tokens in requests of one size."""
    chance = random.Random(1)
    requests = [TraceRequest(n * 0.1, 1 + round(chance.expovariate(1 / 2000)), 1 + round(chance.expovariate(1 / 200))) for n in range(400)]
    unlike = workload_of(Trace("made", requests, 512))
    alike = Workload(unlike.input_tokens, unlike.output_tokens)
    best = [answer(question(workload=work, tps=(1,))).plan.ranked[0].rate_per_s for work in (unlike, alike)]
    assert best[0] < best[1]


def test_what_is_simulated(found):
    """Requests come at the rate, with as much of their prompts in common as is cached; workers have the memory and times of the plan."""
    cached = answer(question(workload=Workload(2048, 200, 0.5), tps=(1,)))
    made = requests_of(cached, best_split(cached), 3.0)
    assert made.rate == pytest.approx(3.0, rel=0.15)
    assert {each.block_hashes[:8] for each in made.requests} == {tuple(range(8))}
    assert len({each.block_hashes[8] for each in made.requests}) == len(made.requests)
    set_up = found.split.set_up
    prefill, decode = cluster_of(found, set_up, 2248).pools
    assert (prefill.count, decode.count) == (set_up.prefill_workers, set_up.decode_workers)
    assert decode.engine.num_blocks * 128 <= set_up.decode.kv_tokens
    assert decode.timing is not None
    assert decode.timing.step_s(StepWork(batch=4, context_tokens=8000)) == set_up.decode.roofline.step_s(Step((), 4.0, 8000.0))


def test_simulated_and_predicted_times_at_little_load(found):
    """They are the same, as they are of the same steps: of a prompt that does not wait, and of tokens in a small batch."""
    ranked = best_split(found)
    set_up, rate = ranked.set_up, 0.15 * ranked.most_per_s
    outcome, pace = simulated(found, ranked, lambda text: None, rate), set_up.pace(rate, found.question.asked)
    assert outcome.ttft_s[50] == pytest.approx(set_up.prefill.prompt_s[0], rel=0.1)
    assert sum(outcome.tpot_s) / len(outcome.tpot_s) == pytest.approx(pace.tpot_s, rel=0.1)
    assert outcome.share == 1.0


def test_tables_line_up():
    """Numbers to the right, words to the left."""
    assert table(("what", "n"), [("ab", "1"), ("abcdef", "10")]) == ["what     n", "ab       1", "abcdef  10"]
