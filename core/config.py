"""All of ``args`` in a Baton application's YAML where one model is served: what each section is for, and the rules that hold between
sections. Each section has a file of its own, ``core/SECTION_config.py``.

Nothing here reads a file or imports an engine; ``deploy.check_config`` adds the line numbers. Wrong values are refused when
the object is made, with a message that says the rule and what to write instead.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from core.autoscaling_config import AutoscalingConfig
from core.engine_config import EngineConfig
from core.kv_transfer_config import KVTransferConfig
from core.lora_config import LoraConfig
from core.objectives_config import Objectives
from core.pool_config import PoolConfig, PrefillPoolConfig
from core.router_config import RouterConfig
from core.section import Section
from core.tracing_config import TracingConfig
from core.worker import Role

DEMO_MODEL = "demo"
"""The model name that stands for the small one Baton builds itself, without any download."""


class SharedConfig(Section):
    """What all models of an application have together."""

    router: RouterConfig = Field(default_factory=RouterConfig)
    """What clients talk to."""
    tracing: TracingConfig = Field(default_factory=TracingConfig)
    """Where spans of requests go, if anywhere."""
    host: str | None = Field(default=None, min_length=1)
    """The address that workers bind and others reach them at. Unset: the address Ray knows the node by. ``127.0.0.1`` keeps
    a cluster of one machine to itself."""

    @field_validator("host")
    @classmethod
    def _can_be_reached(cls, host: str | None) -> str | None:
        if host in {"0.0.0.0", "::"}:
            raise ValueError("others are told this address, so it has to be one they can reach; leave it out to bind the node's own")
        return host


class ModelConfig(Section):
    """One model: its workers, what is promised of it, how it scales. Only ``model`` has to be there."""

    model: str = Field(min_length=1)
    """A model directory that every node sees, a hub name, or ``demo`` for the small random model Baton builds itself."""
    served_model_name: str | None = Field(default=None, min_length=1)
    """The name clients ask for. Unset: ``model`` as it is written."""
    lora: LoraConfig = Field(default_factory=LoraConfig)
    """Adapters of the model, which clients ask for by name as they ask for the model."""
    engine: EngineConfig = Field(default_factory=EngineConfig)
    """What every engine of both pools shares."""
    prefill: PrefillPoolConfig = Field(default_factory=PrefillPoolConfig)
    """The workers that compute prompts for others."""
    decode: PoolConfig = Field(default_factory=PoolConfig)
    """The workers that produce tokens."""
    kv_transfer: KVTransferConfig = Field(default_factory=KVTransferConfig)
    """How a KV cache gets from one to the other."""
    objectives: Objectives = Field(default_factory=Objectives)
    """What they are promised."""
    autoscaling: AutoscalingConfig = Field(default_factory=AutoscalingConfig)
    """How many workers of each pool there are, if not always the same number."""

    @property
    def served_name(self) -> str:
        """The name clients ask for."""
        return self.served_model_name or self.model

    @property
    def is_demo_model(self) -> bool:
        """Whether the model is the one Baton builds, not one on disk or a hub."""
        return self.model == DEMO_MODEL

    def pool(self, role: Role) -> PoolConfig:
        """The pool a worker with this role belongs to."""
        return self.prefill if role is Role.PREFILL else self.decode

    def engine_args(self, role: Role) -> dict[str, Any]:
        """vLLM engine arguments of a pool: the shared ones, the pool's over them, its tensor parallel size, and room for adapters."""
        pool = self.pool(role)
        return {**self.engine.args, **pool.engine_args, "tensor_parallel_size": pool.tensor_parallel_size, **self.lora.engine_args}

    @field_validator("lora")
    @classmethod
    def _adapters_are_not_the_model(cls, lora: LoraConfig, info: ValidationInfo) -> LoraConfig:
        name = info.data.get("served_model_name") or info.data.get("model")
        if name in lora.adapters:
            raise ValueError(f"`{name}` is what clients call the model itself; give the adapter, or `served_model_name`, another name")
        return lora

    @field_validator("kv_transfer")
    @classmethod
    def _backend_fits_engine(cls, transfer: KVTransferConfig, info: ValidationInfo) -> KVTransferConfig:
        engine = info.data.get("engine")
        if engine is not None and (engine.kind == "simulated") != (transfer.backend == "simulated"):
            wanted = "simulated" if engine.kind == "simulated" else "nixl"
            raise ValueError(f"`backend: {transfer.backend}` does not go with `kind: {engine.kind}` engines; set `backend: {wanted}`")
        return transfer

    @field_validator("kv_transfer")
    @classmethod
    def _buffers_are_whole(cls, transfer: KVTransferConfig, info: ValidationInfo) -> KVTransferConfig:
        pools = [pool for name in ("prefill", "decode") if (pool := info.data.get(name)) is not None]
        if transfer.buffer_device == "cpu" and any(not pool.on_cpu for pool in pools):
            # vLLM copies to such a buffer up to the end of the prompt only; a request that goes on elsewhere has more.
            raise ValueError("`buffer_device: cpu` beside GPUs would lose part of the KV of requests that are moved; leave it out")
        return transfer

    @field_validator("autoscaling")
    @classmethod
    def _can_be_scaled(cls, scaling: AutoscalingConfig, info: ValidationInfo) -> AutoscalingConfig:
        pools = {role: pool for role in Role if (pool := info.data.get(role)) is not None}
        objectives = info.data.get("objectives")
        if not scaling.enabled or len(pools) < len(Role) or objectives is None:
            return scaling
        for name in ("ttft_s", "tpot_s"):
            if getattr(scaling.objective, name) is None and getattr(objectives, name) is None:
                raise ValueError(f"what are there to be enough workers for? Set `objective.{name}` here, or `objectives.{name}`")
        engine = info.data.get("engine")
        if engine is not None and (differ := _cannot_exchange(engine, pools[Role.PREFILL], pools[Role.DECODE])):
            raise ValueError(differ)
        for role, pool in pools.items():
            limits = scaling.range(role)
            if not limits.min <= pool.count <= limits.max:
                raise ValueError(
                    f"`{role}` begins with its `count` of {pool.count} workers, which is not within {limits.min} to {limits.max}; "
                    f"change `count`, or `{role}.min` and `{role}.max` here"
                )
        least, when = scaling.least({role: pool.scaled_by for role, pool in pools.items()})
        if scaling.gpu_budget is not None and least > scaling.gpu_budget:
            at = f" on {when}, by `schedules`" if when else ""
            raise ValueError(
                f"`gpu_budget` is {scaling.gpu_budget:g}, and both pools take {least:g} at the least{at}; raise it, or lower `min`"
            )
        return scaling

    @field_validator("decode")
    @classmethod
    def _pools_can_exchange(cls, decode: PoolConfig, info: ValidationInfo) -> PoolConfig:
        prefill, engine = info.data.get("prefill"), info.data.get("engine")
        if prefill is None or engine is None or not prefill.count:
            return decode
        if differ := _cannot_exchange(engine, prefill, decode):
            raise ValueError(differ)
        return decode


def _cannot_exchange(engine: EngineConfig, prefill: PoolConfig, decode: PoolConfig) -> str:
    """Why workers of these pools cannot read each other's KV; empty where they can."""
    if engine.kind == "simulated":
        return ""
    if prefill.on_cpu != decode.on_cpu:
        return "a KV cache computed on the CPU cannot be used on a GPU, nor the reverse; give both pools `num_gpus`, or neither"
    few, many = sorted((prefill.tensor_parallel_size, decode.tensor_parallel_size))
    return f"one pool's `tensor_parallel_size` must be a multiple of the other's; they are {few} and {many}" if many % few else ""


class BatonConfig(SharedConfig, ModelConfig):
    """All of ``args`` where there is one model; of several, what one of them is served by. Only ``model`` has to be there: the rest
    then serves it on one CPU worker per pool."""
