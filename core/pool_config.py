"""The sections ``prefill`` and ``decode`` of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from core.arguments import PoolEngineArgs
from core.section import Section


class PoolConfig(Section):
    """One pool of equal workers. Numbers of resources are per worker."""

    count: int = Field(default=1, ge=1)
    """Workers in the pool."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that one engine's weights are split over."""
    num_cpus: float = Field(default=1.0, ge=0)
    """CPUs that Ray sets aside for a worker. It does not limit what the worker uses."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs of a worker: 0 for the CPU, else as many as ``tensor_parallel_size``, or a fraction for workers that share one."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Custom Ray resources of a worker, e.g. ``{"accelerator_type:H100": 0.01}``: how a pool is tied to a kind of node."""
    engine_args: PoolEngineArgs = Field(default_factory=dict)
    """vLLM engine arguments of this pool only; they win over ``engine.args``."""
    start_timeout_s: float = Field(default=600.0, gt=0)
    """A worker that has not loaded its model by then is given up and replaced."""
    silence_timeout_s: float = Field(default=10.0, gt=0)
    """A worker that has not answered the controller for so long is ended and replaced. Routers give its requests to others
    much sooner: ``router.worker_timeout_s``."""
    stall_timeout_s: float = Field(default=60.0, gt=0)
    """An engine that has work and ends no step for so long hangs: its worker gives it up. Longer than the longest step."""
    drain_timeout_s: float = Field(default=30.0, ge=0)
    """How long a worker that is to go may finish what it runs. What is not finished then is continued by other workers."""
    surge: int = Field(default=0, ge=0)
    """Workers started beyond ``count`` while others are replaced, where the cluster has room. With 0 a worker goes before its
    replacement comes."""
    max_prefill_tokens: int | None = Field(default=None, ge=1)
    """Prompt tokens a worker takes on before the first of them is done; it refuses the rest, and the router offers them
    elsewhere. One prompt is always taken, however long. Unset: four steps' worth, ``4 * max_num_batched_tokens``."""
    step_times: str | None = Field(default=None, min_length=1)
    """``engine.step_times`` of this pool only, e.g. where it has other GPUs or splits its weights over more of them."""
    headroom_tokens: int = Field(default=256, ge=0)
    """KV room a worker keeps for each request it decodes to grow into; a request that would eat into it is refused."""

    @property
    def on_cpu(self) -> bool:
        """Whether workers compute on the CPU, going by what they ask of Ray."""
        return self.num_gpus == 0

    @property
    def scaled_by(self) -> float:
        """What one worker takes of ``autoscaling.gpu_budget``: its GPUs; without any, its CPUs."""
        return self.num_gpus or self.num_cpus or 1.0

    @field_validator("num_gpus")
    @classmethod
    def _one_gpu_per_rank(cls, gpus: float, info: ValidationInfo) -> float:
        ranks = info.data.get("tensor_parallel_size")
        if ranks is None or gpus == ranks or (ranks == 1 and gpus < 1):
            return gpus
        raise ValueError(
            f"`num_gpus` is per worker and has to equal `tensor_parallel_size` ({ranks}), or be 0 or a fraction beside a size of 1; "
            f"it is {gpus:g}. For more workers raise `count`"
        )


class PrefillPoolConfig(PoolConfig):
    """Of the workers that compute prompts for others; there may be none."""

    count: int = Field(default=1, ge=0)
    """Workers in the pool. With 0 each worker of ``decode`` computes the prompts of what it answers."""
