"""Looks at the node this runs on. Every look answers, also where what is looked for is not there."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from core.config import BatonConfig
from deploy.doctor.measured import UNLIMITED, Gpu, Gpus, ModelFiles, Nixl, Node, Port
from deploy.doctor.pins import installed
from kv_transfer.nixl_probe import ProbeError, installed_back_ends

_WATCHED_ENV = ("RAY_SERVE_", "UCX_", "NIXL_", "NCCL_", "VLLM_")
_ASK_S = 30.0
_TORCH = "import torch; print(torch.version.cuda or '', torch.cuda.device_count())"


def look(host: str, config: BatonConfig | None, http: tuple[str, int] | None) -> Node:
    """What there is here."""
    shm = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None
    return Node(
        name=host,
        versions=installed(),
        environment={name: value for name, value in sorted(os.environ.items()) if name.startswith(_WATCHED_ENV) and "KEY" not in name},
        gpus=gpus(),
        rdma_ports=rdma_ports(Path("/sys/class/infiniband")),
        shm_total_bytes=shm.total if shm else 0,
        shm_free_bytes=shm.free if shm else 0,
        open_files=_limit(resource.RLIMIT_NOFILE),
        locked_bytes=_limit(resource.RLIMIT_MEMLOCK),
        available_bytes=psutil.virtual_memory().available,
        ports=ports(config.host if config is not None and config.host else host, http),
        model=model_files(config) if config is not None else None,
        nixl=nixl(),
    )


def ports(workers_host: str, http: tuple[str, int] | None) -> tuple[Port, ...]:
    """Whether routers and workers could listen where they are told to."""
    asked = [("workers", workers_host, 0), *([("HTTP", *http)] if http else [])]
    return tuple(Port(what, host, port, _bind_problem(host, port)) for what, host, port in asked)


def _bind_problem(host: str, port: int) -> str:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have just ended do not count
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def nixl() -> Nixl:
    """What NIXL itself says of it."""
    try:
        return Nixl(installed_back_ends())
    except ProbeError as error:
        return Nixl(problem=str(error))


def gpus() -> Gpus:
    """Asked in processes of their own: Ray hides GPUs from a process that asked for none, and CUDA stays with whoever touched it."""
    if shutil.which("nvidia-smi") is None:
        return Gpus()
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        found = parsed_gpus(_asked(query))
        cuda, seen = _asked([sys.executable, "-c", _TORCH]).rsplit(maxsplit=1) if found else ("", "0")
        return Gpus(found, nvlink_pairs(_asked(["nvidia-smi", "topo", "-m"])), cuda.strip() or None, int(seen))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
        return Gpus(problem=(said or str(error)).strip().splitlines()[-1])


def parsed_gpus(text: str) -> tuple[Gpu, ...]:
    """The answer to the query: name, driver, MiB there are, MiB in use."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    return tuple(Gpu(name, driver, int(total) << 20, int(used) << 20) for name, driver, total, used in rows)


def nvlink_pairs(topology: str) -> int:
    """Of ``nvidia-smi topo -m``: cells ``NV4`` and such, each pair of which stands there twice."""
    rows = [line.split() for line in topology.splitlines() if line.startswith("GPU")]
    return sum(cell.startswith("NV") and cell[2:].isdigit() for row in rows for cell in row[1:]) // 2


def rdma_ports(devices: Path) -> tuple[str, ...]:
    """Ports of InfiniBand and RoCE cards that the kernel calls active."""
    found = []
    for state in sorted(devices.glob("*/ports/*/state")):
        try:
            if "ACTIVE" in state.read_text():
                found.append(f"{state.parents[2].name}:{state.parent.name}")
        except OSError:
            continue  # a card that has just gone
    return tuple(found)


def model_files(config: BatonConfig) -> ModelFiles:
    """Opens what a worker would open first; reads no weights."""
    if config.is_demo_model:
        return ModelFiles("built")
    given = Path(config.model).expanduser()
    if not given.is_dir():
        if config.model.startswith(("/", "./", "../", "~")):
            return ModelFiles("folder", config.model, problem="there is no such folder")
        return _of_hub(config.model)
    return _folder("folder", given)


def _of_hub(name: str) -> ModelFiles:
    from engine.performance.roofline.find_model import cached_config

    path = cached_config(name)
    return _folder("cached", path.parent) if path is not None else ModelFiles("absent", name)


def _folder(kind: str, folder: Path) -> ModelFiles:
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    try:
        (folder / "config.json").read_bytes()
        for path in weights:
            with path.open("rb") as file:
                file.read(1)
        size = sum(path.stat().st_size for path in weights)
    except OSError as error:
        return ModelFiles(kind, str(folder), problem=f"{Path(str(error.filename)).name}: {error.strerror}")  # type: ignore[arg-type]
    return ModelFiles(kind, str(folder), size, "" if weights else "no weights in it (*.safetensors)")  # type: ignore[arg-type]


def _asked(command: list[str]) -> str:
    """A command's output, with no GPU hidden from it."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_ASK_S, check=True).stdout


def _limit(which: int) -> int:
    soft, _ = resource.getrlimit(which)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft
