"""What an examination finds, as plain values: no opinions here, those are in ``verdicts``."""

from __future__ import annotations

from typing import Literal

import msgspec

UNLIMITED = -1
"""Of a limit in bytes or a number."""


class Gpu(msgspec.Struct, frozen=True):
    """One GPU as its driver tells of it."""

    name: str
    driver: str
    memory_bytes: int
    used_bytes: int


class Gpus(msgspec.Struct, frozen=True):
    """Of one node, by ``nvidia-smi`` and by a torch that nothing is hidden from."""

    found: tuple[Gpu, ...] = ()
    nvlinks: int = 0
    """Pairs of GPUs with NVLink between them."""
    torch_cuda: str | None = None
    """The CUDA that torch was built for; None: torch is built for the CPU, or cannot be imported."""
    torch_sees: int = 0
    problem: str = ""
    """Why ``nvidia-smi`` could not tell, where it is there."""


class Port(msgspec.Struct, frozen=True):
    """Whether one could listen there."""

    what: str
    host: str
    port: int
    """0: any that is free."""
    problem: str = ""


class ModelFiles(msgspec.Struct, frozen=True):
    """The model as a worker on that node would find it."""

    kind: Literal["folder", "cached", "absent", "built"]
    """``built``: the demo model; ``cached``: of a hub, here already; ``absent``: of a hub, still to be fetched."""
    path: str = ""
    weight_bytes: int = 0
    problem: str = ""


class Nixl(msgspec.Struct, frozen=True):
    """Whether NIXL can be imported, and what it brings."""

    back_ends: tuple[str, ...] = ()
    problem: str = ""


class Node(msgspec.Struct, frozen=True):
    """One node."""

    name: str
    """Its address; ``here`` without a cluster."""
    versions: dict[str, str]
    """Of what is installed, ``python`` included."""
    environment: dict[str, str]
    """Of the variables that concern Ray Serve, UCX, NIXL and NCCL, those that are set."""
    gpus: Gpus
    rdma_ports: tuple[str, ...]
    """Active ones, ``mlx5_0:1``."""
    shm_total_bytes: int
    shm_free_bytes: int
    open_files: int
    locked_bytes: int
    available_bytes: int
    """Of the host's memory."""
    ports: tuple[Port, ...] = ()
    model: ModelFiles | None = None
    nixl: Nixl | None = None


class Transfer(msgspec.Struct, frozen=True):
    """Bytes that have come, and how long they took."""

    moved_bytes: int = 0
    seconds: float = 0.0
    problem: str = ""

    @property
    def gbps(self) -> float:
        """Gigabits per second."""
        return self.moved_bytes * 8e-9 / self.seconds if self.seconds else 0.0


class Link(msgspec.Struct, frozen=True):
    """From one node to another, as one pulls from the other."""

    keeper: str
    reader: str
    round_trip_s: float
    """The median of many."""
    tcp: Transfer
    nixl: Transfer | None = None
    """None: not tried."""

    @property
    def best(self) -> Transfer:
        """What KV would go by."""
        return self.nixl if self.nixl is not None else self.tcp


class Clock(msgspec.Struct, frozen=True):
    """How far a node's clock is ahead of the asker's, give or take ``error_s``: half of the fastest round trip."""

    node: str
    ahead_s: float
    error_s: float
