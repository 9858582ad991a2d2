"""A model of a deployment, fitted to what its router saw of probes and its clients of a calibration load. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median

import msgspec
import numpy as np

from core.step_model import StepModel, StepWork
from engine.performance.fit import fit_steps
from simulation.kv_network import Port

_LEAST_LATENCY_S = 1e-4
_LEAST_S_PER_BYTE = 1e-12
_BITS_PER_BYTE = 8


class Seen(msgspec.Struct, frozen=True):
    """What the router tells of one request that was handed over (``router.timeline``). Seconds since it reached the router."""

    arrived_at: float
    prompt_tokens: int
    output_tokens: int
    sent_s: float
    first_token_s: float
    handed_off_s: float
    decoding_s: float
    finished_s: float
    transfer_bytes: int
    transferred_tokens: int

    @property
    def step_s(self) -> float:
        """Mean time from one token of the decode worker to the next; needs two of them."""
        return (self.finished_s - self.decoding_s) / (self.output_tokens - 2)


class Reading(msgspec.Struct, frozen=True):
    """Of one request, by its client."""

    ttft_s: float
    tpot_s: float


class Overheads(msgspec.Struct, frozen=True):
    """What is not simulated, as its calibration load saw it: client, HTTP, the router's own work, and how uneven all of it is."""

    ttft_s: list[float]
    """On top of what was simulated, one for each request."""
    tpot_ratio: list[float]
    """Measured per simulated."""

    @classmethod
    def between(cls, measured: Sequence[Reading], simulated: Sequence[Reading]) -> Overheads:
        """Of the same requests in the same order."""
        pairs = list(zip(measured, simulated, strict=True))
        return cls([real.ttft_s - ours.ttft_s for real, ours in pairs], [real.tpot_s / ours.tpot_s for real, ours in pairs])

    def fixed(self, simulated: Sequence[Reading]) -> list[Reading]:
        """With the median on top of all."""
        ttft_s, ratio = median(self.ttft_s), median(self.tpot_ratio)
        return [Reading(reading.ttft_s + ttft_s, reading.tpot_s * ratio) for reading in simulated]

    def drawn(self, simulated: Sequence[Reading], rng: random.Random) -> list[Reading]:
        """With one of those that were seen on top of each, drawn by chance."""
        return [
            Reading(max(0.0, reading.ttft_s + rng.choice(self.ttft_s)), reading.tpot_s * rng.choice(self.tpot_ratio))
            for reading in simulated
        ]


def step_model(alone: Sequence[Seen], batches: Sequence[Sequence[Seen]]) -> StepModel:
    """From prompts that nobody else was beside, and from requests that decoded side by side."""
    samples = [(StepWork(seen.prompt_tokens, seen.prompt_tokens**2), seen.first_token_s - seen.sent_s) for seen in alone]
    for batch in batches:
        context_tokens = round(sum(seen.prompt_tokens + seen.output_tokens / 2 for seen in batch))
        samples += [(StepWork(batch=len(batch), context_tokens=context_tokens), seen.step_s) for seen in batch]
    return fit_steps(samples)


def port(alone: Sequence[Seen], model: StepModel) -> Port:
    """What is between the end of a prompt and the first step of decode: least squares over the bytes, and never below nothing."""
    sent_bytes = np.array([seen.transfer_bytes for seen in alone], dtype=np.float64)
    waits_s = np.array([seen.decoding_s - seen.handed_off_s - model.decode_s(1, seen.prompt_tokens + 1) for seen in alone])
    slope_s, _ = np.polyfit(sent_bytes, waits_s, 1)
    slope_s = max(_LEAST_S_PER_BYTE, float(slope_s))
    latency_s = max(_LEAST_LATENCY_S, float(np.median(waits_s - slope_s * sent_bytes)))
    return Port(gbps=_BITS_PER_BYTE / slope_s / 1e9, latency_s=latency_s)


def kv_bytes_per_token(seen: Sequence[Seen]) -> int:
    """Raises ValueError where nothing was handed over: there is then no deployment of this kind to be right about."""
    tokens = sum(each.transferred_tokens for each in seen)
    if not tokens:
        raise ValueError("no KV was handed over: decode computed every prompt again")
    return round(sum(each.transfer_bytes for each in seen) / tokens)
