"""Composes a worker from its parts. Called inside the worker's actor, on whichever node Ray put it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cluster.adapter_slots import AdapterSlots
from cluster.adapters import Adapters
from cluster.admission import Admission
from cluster.channel import WorkerEnd
from cluster.leg_spans import LegSpans
from cluster.messages import LegKind
from cluster.otlp import otlp_export
from cluster.runtime import WorkerRuntime
from cluster.spec import WorkerSpec
from cluster.whole import WholeLegs
from core.block_keys import seed_of
from core.config import BatonConfig
from core.pool_config import PoolConfig
from core.worker import Role
from decode_workers.admission import DecodeAdmission
from decode_workers.decode import DecodeLegs
from deploy import guardian, run_state
from deploy.model import model_path
from engine import expected
from engine.adapters import AdapterCatalogue
from engine.base import Engine
from kv_transfer.backend import TransferSettings, transfer_config
from prefill_workers.admission import PrefillAdmission
from prefill_workers.prefill import PrefillLegs


def build_worker(spec: WorkerSpec, node_address: str) -> WorkerRuntime:
    """A worker that is ready to start. Every worker can do every kind of leg: its role is only a label."""
    config = BatonConfig.model_validate(spec.config)
    host = config.host or node_address
    pool = config.pool(spec.role)
    engine = build_engine(config, spec.role, host)
    prefill = PrefillLegs(spec.worker, spec.epoch, config.kv_transfer.lease_s, time.monotonic)
    return WorkerRuntime(
        worker=spec.worker,
        epoch=spec.epoch,
        engine=engine,
        end=WorkerEnd(host, spec.worker_keys, spec.router_keys.public, config.router.worker_timeout_s),
        handlers={LegKind.PREFILL: prefill, LegKind.DECODE: DecodeLegs(), LegKind.WHOLE: WholeLegs()},
        admissions=admissions(pool),
        leases=prefill.leases,
        pulse_s=config.router.heartbeat_s,
        stall_timeout_s=pool.stall_timeout_s,
        clock=time.monotonic,
        step_prior=expected.step_model(config, spec.role),
        block_seed=seed_of(spec.router_keys.secret),
        spans=LegSpans(spec.worker, otlp_export(config.tracing, "baton-worker", spec.worker, os.environ), config.tracing.flush_timeout_s),
        adapters=adapters(config, engine),
    )


def adapters(config: BatonConfig, engine: Engine) -> Adapters | None:
    """None where LoRA is off."""
    lora = config.lora
    if not lora.enabled:
        return None
    return Adapters(engine, AdapterCatalogue(lora, config.served_name), AdapterSlots(lora.max_loaded, lora.load_s), time.monotonic)


def admissions(pool: PoolConfig) -> dict[LegKind, list[Admission]]:
    """Who may refuse which kind of leg. A whole one has a prompt to compute, and grows."""
    prompts, answers = PrefillAdmission(pool.max_prefill_tokens, pool.headroom_tokens), DecodeAdmission(pool.headroom_tokens)
    return {LegKind.PREFILL: [prompts], LegKind.DECODE: [prompts, answers], LegKind.WHOLE: [prompts, answers]}


def build_engine(config: BatonConfig, role: Role, host: str) -> Engine:
    """The engine of a worker with this role, not started."""
    if config.engine.kind == "simulated":
        from engine.sim_config import SimulatedEngineConfig
        from engine.simulated import SimulatedEngine

        return SimulatedEngine(SimulatedEngineConfig.of_config(config, host))
    from engine.vllm_engine import VllmEngine

    pool, transfer = config.pool(role), config.kv_transfer
    settings = TransferSettings(
        lease_s=round(transfer.lease_s),
        buffer_device=transfer.device(pool.on_cpu),
        progress_thread_rest_us=transfer.rest_us(pool.on_cpu),
        pull_timeout_s=transfer.pull_timeout_s,
        options=transfer.options,
    )
    # By its name: vLLM's metrics have it as a label, and where a node keeps its models is nobody's business.
    arguments = {"model": str(model_path(config)), "served_model_name": config.served_name, **config.engine_args(role)}
    # Its socket: in the directory that is removed with this run, or in this user's own on a cluster.
    run_dir = Path(os.environ.get(guardian.MARK) or run_state.run_dir())
    return VllmEngine(arguments, transfer_config(transfer.backend, settings), host, run_dir)
