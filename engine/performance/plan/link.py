"""What KV caches go over from prefill to decode workers, and what hand-overs take at some load."""

from __future__ import annotations

import math

import msgspec

LATENCY_S = 0.002
"""Assumed for agreeing on a hand-over and on its end."""


class Link(msgspec.Struct, frozen=True):
    """Each GPU's port to the network, each way. Without limit unless said."""

    gpu_bytes_per_s: float = math.inf
    latency_s: float = 0.0

    def port_bytes_per_s(self, gpus: int) -> float:
        """Of a worker with so many GPUs: each moves its own part of the KV."""
        return self.gpu_bytes_per_s * gpus


UNLIMITED = Link()


def handover_s(link: Link, rate_per_s: float, kv_bytes: float, ends: tuple[tuple[int, int], tuple[int, int]]) -> float:
    """Mean, from the first token to when decode has the prompt's KV. ``ends`` are the prefill and the decode pool: workers, and GPUs of
    each. Every worker's port is a queue, and a hand-over is as fast as the slower of two. Infinite where ports are full."""
    seconds = link.latency_s
    slowest = 0.0
    for workers, gpus in ends:
        own_s = kv_bytes / link.port_bytes_per_s(gpus)
        load = rate_per_s / workers * own_s
        if load >= 1.0:
            return math.inf
        seconds += load * own_s / (2.0 * (1.0 - load))
        slowest = max(slowest, own_s)
    return seconds + slowest
