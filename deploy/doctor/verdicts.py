"""What follows from what was measured: one pure function per check, ``(measured, wanted) -> Line``, and the limits it goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.specifiers import SpecifierSet

from deploy.doctor.kv_fit import Fit
from deploy.doctor.line import Line, judged
from deploy.doctor.measured import UNLIMITED, Clock, Link, Node
from deploy.doctor.pins import ENGINES
from deploy.doctor.wants import Wants

_DRIVER_OF_CUDA = {12: 525, 13: 580}
"""The oldest driver by CUDA's major version; docs/gpu.md has the source."""
_SHM_BYTES = 1 << 30
"""Containers get 64 MiB unless told otherwise, which neither Ray's object store nor engines over several GPUs can use."""
_FILES_BESIDE = 1024
"""That a router has open beside its streams: workers, metrics, libraries."""
_CLOCKS_WARN_S, _CLOCKS_FAIL_S = 0.05, 5.0
"""Timelines of two nodes then are off by more than a step; and by more than a lease is refreshed in. No answer depends on it."""
_ROUND_TRIP_S = 0.005
"""Every step's tokens pay it. Inside one data centre it is a tenth of this."""
_SHARE_OF_LINK = 0.5
_SLOW_GBPS = 10.0
"""Between GPU workers where nothing else was expected: docs/gpu.md has what a prompt then takes."""
_USED_BYTES = 2 << 30
"""Of a GPU before traffic: more is somebody else's."""


def versions(node: Node, pins: Mapping[str, str]) -> Line:
    """What is installed is what Baton was tested with."""
    fails = [
        (f"{name} is {node.versions[name]}, and Baton needs {pin}", "install requirements/cpu.lock or gpu.lock on this node, whole")
        for name, pin in pins.items()
        if name in node.versions and not SpecifierSet(pin).contains(node.versions[name], prereleases=True)
    ]
    if not set(ENGINES) & set(node.versions):
        fails.append(("vLLM is not installed", "install requirements/cpu.lock or gpu.lock on this node"))
    fails += [
        (f"{name} is not installed", "install requirements/cpu.lock or gpu.lock on this node")
        for name in pins
        if name not in node.versions and name not in ENGINES
    ]
    return judged("versions", node.name, ", ".join(f"{name} {version}" for name, version in node.versions.items()), fails)


def agreement(nodes: Sequence[Node]) -> Line:
    """All nodes have the same of everything: workers of one application exchange their insides."""
    names = dict.fromkeys(name for node in nodes for name in node.versions)
    by_name = {name: {node.name: node.versions.get(name, "none") for node in nodes} for name in names}
    fails = [
        (f"{name} is " + ", ".join(f"{version} on {node}" for node, version in found.items()), "use one image, or one lock, on all nodes")
        for name, found in by_name.items()
        if len(set(found.values())) > 1
    ]
    return judged("same everywhere", "cluster", f"{len(nodes)} nodes have the same versions", fails)


def ray_environment(node: Node, wanted: Sequence[str]) -> Line:
    """Ray was started with what ``baton env`` prints."""
    missing = [name for name in wanted if name not in node.environment]
    advice = 'start Ray on every node with: eval "$(baton env)" && ray start ...'
    warns = [(f"Ray was started without {', '.join(missing)}: Serve then uses its slow proxy", advice)] if missing else []
    return judged("Ray's environment", node.name, "as `baton env` has it", warns=warns)


def nixl(node: Node, wants: Wants) -> Line:
    """NIXL loads, and has UCX."""
    found = node.nixl
    if found is None or not wants.nixl:
        return judged("NIXL", node.name, "not asked for")
    fails = []
    if found.problem:
        fails.append((f"cannot be loaded: {found.problem}", "install nixl and nixl-cu12 as the lock has them; see docs/gpu.md"))
    elif "UCX" not in found.back_ends:
        fails.append((f"has no UCX, only {', '.join(found.back_ends) or 'nothing'}", "install nixl-cu12 as the lock has it"))
    return judged("NIXL", node.name, f"loads, with {', '.join(found.back_ends)}", fails)


def ports(node: Node, serve_runs: bool) -> Line:
    """Everything that is to listen could. ``serve_runs``: on this cluster Ray Serve is up already, and may have the port."""
    fails, warns = [], []
    for port in node.ports:
        place = f"{port.host}:{port.port}" if port.port else f"any port of {port.host}"
        said = f"{port.what}: cannot listen at {place}: {port.problem}"
        if port.problem and port.port and serve_runs:
            warns.append((said, "right if it is this cluster's Serve (`serve status`); else set another `http_options.port`"))
        elif port.problem and port.port:
            fails.append((said, "set another `http_options.port`, or end what is there"))
        elif port.problem:
            fails.append((said, "set `host` to an address of this node, or leave it out"))
    free = ", ".join(f"{port.what} at {port.host}:{port.port or 'any'}" for port in node.ports)
    return judged("ports", node.name, f"free: {free}", fails, warns)


def gpu(node: Node) -> Line:
    """A node's GPUs are all seen, by a driver that is new enough, and nobody is on them."""
    gpus = node.gpus
    if gpus.problem:
        return judged("GPUs", node.name, "", [(f"nvidia-smi: {gpus.problem}", "mend the driver, or the container's toolkit")])
    if not gpus.found:
        return judged("GPUs", node.name, "none")
    fails, warns = [], []
    if gpus.torch_cuda is None:
        fails.append(("torch is built for the CPU", "install requirements/gpu.lock on this node"))
    elif gpus.torch_sees != len(gpus.found):
        fails.append((f"torch sees {gpus.torch_sees} of {len(gpus.found)} GPUs", "`nvidia-smi` as the same user, in the same container"))
    driver = gpus.found[0].driver
    needed = _DRIVER_OF_CUDA.get(int((gpus.torch_cuda or "0").partition(".")[0]), 0)
    if int(driver.partition(".")[0]) < needed:
        fails.append((f"driver {driver} is too old for CUDA {gpus.torch_cuda}", f"install driver {needed} or newer"))
    if len({one.name for one in gpus.found}) > 1:
        warns.append(("GPUs of several kinds in one node", "tie each pool to its kind: `resources` in docs/configuration.md"))
    if busy := [number for number, one in enumerate(gpus.found) if one.used_bytes > _USED_BYTES]:
        used = ", ".join(f"GPU {number} has {_gib(gpus.found[number].used_bytes)} in use" for number in busy)
        warns.append((used, "right if workers run there; else end what `nvidia-smi` names"))
    links = f", {gpus.nvlinks} pairs with NVLink" if gpus.nvlinks else ""
    found = f"{len(gpus.found)} x {gpus.found[0].name}, {_gib(gpus.found[0].memory_bytes)}, driver {driver}, CUDA {gpus.torch_cuda}{links}"
    return judged("GPUs", node.name, found, fails, warns)


def gpu_count(nodes: Sequence[Node], wants: Wants) -> Line:
    """There are as many GPUs as the configuration asks for, and a worker's are on one node."""
    there = sum(len(node.gpus.found) for node in nodes)
    most = max((len(node.gpus.found) for node in nodes), default=0)
    fails = []
    if there < wants.gpus:
        asked = " + ".join(f"{pool.count} {pool.role} x {pool.gpus:g}" for pool in wants.pools)
        fails.append((f"{wants.gpus:g} GPUs are asked for ({asked}), there are {there}", "lower `count`, or add nodes"))
    if most < wants.largest_worker_gpus:
        advice = "lower `tensor_parallel_size` and `num_gpus`: Baton places a worker on one node"
        fails.append((f"a worker takes {wants.largest_worker_gpus:g} GPUs, the largest node has {most}", advice))
    return judged("GPUs asked for", "cluster", f"{wants.gpus:g} of {there}", fails)


def rdma(node: Node, wants: Wants, alone: bool) -> Line:
    """Between GPU nodes there is something faster than TCP, and UCX may use it. ``alone``: no other node is there."""
    transports = {**node.environment, **wants.transport_env}
    tls = [name for name in transports.get("UCX_TLS", "all").split(",") if name]
    fails, warns = [], []
    if wants.gpus and tls and not {"all", "cuda", "cuda_copy"} & set(tls) and not tls[0].startswith("^"):
        fails.append((f"UCX_TLS={transports['UCX_TLS']} has no cuda: UCX cannot read GPU memory", "add `cuda` to UCX_TLS"))
    if node.rdma_ports and node.locked_bytes != UNLIMITED:
        said = f"at most {_gib(node.locked_bytes)} of memory may be locked, and RDMA locks all that it moves"
        fails.append((said, "`ulimit -l unlimited`, IPC_LOCK in containers"))
    if wants.gpus and not alone and not node.rdma_ports:
        said = "no active InfiniBand or RoCE port: KV goes by TCP, through the host's memory"
        warns.append((said, "in a container, give it /dev/infiniband; see docs/gpu.md"))
    chosen = ", ".join(f"{name}={value}" for name, value in sorted(transports.items()) if name.startswith("UCX_"))
    none = "none; docs/gpu.md has what that means between GPUs of one node" if wants.gpus > 1 else "none, none needed"
    found = (f"active: {', '.join(node.rdma_ports)}" if node.rdma_ports else none) + (f"; {chosen}" if chosen else "")
    return judged("RDMA", node.name, found, fails, warns)


def shared_memory(node: Node) -> Line:
    """/dev/shm is large enough for Ray."""
    if node.shm_total_bytes == 0:
        return judged("/dev/shm", node.name, "", [("is not there", "mount a tmpfs there")])
    said = f"{_gib(node.shm_free_bytes)} of {_gib(node.shm_total_bytes)} free"
    warns = [(said, "`docker run --shm-size=8g`, an emptyDir with `medium: Memory`")] if node.shm_free_bytes < _SHM_BYTES else []
    return judged("/dev/shm", node.name, said, warns=warns)


def open_files(node: Node, wants: Wants) -> Line:
    """A router may open as many streams as it is told to take."""
    needed = wants.streams + _FILES_BESIDE
    enough = node.open_files == UNLIMITED or node.open_files >= needed
    said = f"{'any number' if node.open_files == UNLIMITED else node.open_files} may be open"
    warns = [(f"{said}, and a router takes {wants.streams} streams", f"`ulimit -n {needed}` before `ray start`, or less streams")]
    return judged("open files", node.name, said, warns=[] if enough else warns)


def model(node: Node) -> Line:
    """A worker on this node could read the model."""
    files = node.model
    if files is None:
        return judged("model files", node.name, "not asked for")
    if files.problem:
        advice = "`model` is a folder that every node sees, with config.json and weights in it"
        return judged("model files", node.name, "", [(f"{files.path}: {files.problem}", advice)])
    if files.kind == "absent":
        advice = "needs the network at start, and HF_TOKEN where the hub asks for it; or fetch it first, on every node"
        return judged("model files", node.name, "", warns=[(f"{files.path} is not in this node's cache", advice)])
    size = f", {_gib(files.weight_bytes)} of weights" if files.weight_bytes else ""
    return judged("model files", node.name, "Baton makes the demo model" if files.kind == "built" else f"{files.path}{size}")


def kv_room(fit: Fit) -> Line:
    """Weights fit, and the longest request beside them and what is set aside for adapters."""
    fails = []
    taken = f"{_gib(fit.weight_bytes)} of weights" + (f", {_gib(fit.adapter_bytes)} for LoRA adapters" if fit.adapter_bytes else "")
    fewer = "; or lower `lora.max_loaded` or `lora.max_rank`" if fit.adapter_bytes else ""
    if fit.kv_bytes <= 0:
        advice = "more GPUs per worker (`tensor_parallel_size`), larger ones, or a quantised model"
        fails.append((f"{taken}: no room is left for KV", advice + fewer))
    elif fit.kv_tokens < fit.wanted_tokens:
        said = f"room for {fit.kv_tokens:,} tokens of KV, and `max_model_len` is {fit.wanted_tokens:,}"
        fails.append((said, "lower `max_model_len`, or raise `tensor_parallel_size`" + fewer))
    found = f"{taken} and {fit.kv_tokens:,} tokens of KV per GPU or engine, reckoned"
    return judged("KV room", fit.role, found, fails)


def host_memory(node: Node, needed_bytes: float) -> Line:
    """What workers take of the host's memory is there. ``needed_bytes``: 0 where that is not known."""
    said = f"{_gib(node.available_bytes)} available"
    if needed_bytes <= node.available_bytes:
        return judged("memory", node.name, said + (f", {_gib(needed_bytes)} needed" if needed_bytes else ""))
    advice = "fewer workers here, a smaller VLLM_CPU_KVCACHE_SPACE, or end what else runs"
    return judged("memory", node.name, "", [(f"{said}, and workers take {_gib(needed_bytes)}", advice)])


def link(found: Link, wants: Wants) -> Line:
    """Bytes come, by NIXL where that is wanted, and about as fast as routers were told."""
    where, best = f"{found.keeper} to {found.reader}", found.best
    if problem := found.tcp.problem or best.problem:
        advice = "open all ports between nodes; `host` has to be an address the others reach" if found.tcp.problem else "see docs/gpu.md"
        return judged("link", where, "", [(problem, advice)])
    tcp = f"TCP {found.tcp.gbps:.3g} Gb/s, round trip {found.round_trip_s * 1e3:.2g} ms"
    said = (f"NIXL {best.gbps:.3g} Gb/s between host memories; " if found.nixl else "") + tcp
    warns = []
    measured = f"`kv_transfer.link_gbps: {best.gbps:.2g}` tells routers until they have measured; see docs/gpu.md for UCX"
    if wants.link_gbps is not None and best.gbps < _SHARE_OF_LINK * wants.link_gbps:
        warns.append((f"{said}; {wants.link_gbps:g} Gb/s were expected", measured))
    elif wants.link_gbps is None and wants.gpus and best.gbps < _SLOW_GBPS:
        warns.append((f"{said}; slow for GPUs, many prompts will not be handed over", measured))
    if found.round_trip_s > (_ROUND_TRIP_S if wants.link_latency_s is None else max(_ROUND_TRIP_S, wants.link_latency_s)):
        warns.append((said, "put routers and workers into one data centre: every token pays this"))
    return judged("link", where, said, warns=warns)


def clocks(found: Sequence[Clock]) -> Line:
    """Nodes agree on the time, as far as round trips can tell."""
    first, last = min(found, key=lambda clock: clock.ahead_s), max(found, key=lambda clock: clock.ahead_s)
    apart_s, error_s = last.ahead_s - first.ahead_s, first.error_s + last.error_s
    said = f"{apart_s * 1e3:.3g} ms apart at the most, give or take {error_s * 1e3:.2g} ms"
    if apart_s - error_s <= _CLOCKS_WARN_S:
        return judged("clocks", "cluster", said)
    wrong = [(f"{last.node} is ahead of {first.node}: {said}", "run chrony or another NTP client on every node")]
    return judged("clocks", "cluster", said, *((wrong, []) if apart_s - error_s > _CLOCKS_FAIL_S else ([], wrong)))


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / (1 << 30):.3g} GiB" if size_bytes >= 1 << 30 else f"{size_bytes / (1 << 20):.3g} MiB"
