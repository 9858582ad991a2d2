"""``baton check-config FILE``: is this file right, and if not, in which line is what wrong?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.config import BatonConfig
    from core.pool_config import PoolConfig
    from deploy.check_config import ServeFile

EXAMPLES = """\
examples:
  baton check-config deploy/config/cpu-demo.yaml
  baton check-config my.yaml && baton up my.yaml
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "check-config",
        help="check a config file: every problem with its line, or a summary of what it asks for",
        description="Checks a Ray Serve config file with a Baton application in it. Starts nothing. Exits with 1 if anything is wrong.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the YAML file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from core.errors import ConfigError
    from deploy.check_config import read

    try:
        file = read(arguments.file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments.file}: ok\n{summary(file)}")
    return 0


def summary(file: ServeFile) -> str:
    """What a file asks for, a line each."""
    models, router = file.served.models, file.config.router
    pools = [pool for config in models for pool in (config.prefill, config.decode)]
    cpus = sum(pool.count * pool.num_cpus for pool in pools) + router.replicas * router.num_cpus
    gpus = sum(pool.count * pool.num_gpus for pool in pools)
    lines = [line for config in models for line in _model(config)]
    lines.append(("router", f"{_count(router.replicas, 'replica')}, {router.policy}"))
    if file.served.gpu_budget is not None:
        lines.append(("budget", f"{file.served.gpu_budget:g} for all models together"))
    lines.append(("asks of Ray", f"{cpus:g} CPUs, {gpus:g} GPUs"))
    lines.append(("listens on", f"http://{file.http_host}:{file.http_port}{file.route_prefix}"))
    return "\n".join(f"  {what:<12} {value}" for what, value in lines)


def _model(config: BatonConfig) -> list[tuple[str, str]]:
    name = f', served as "{config.served_name}"' if config.served_name != config.model else ""
    promised = {"first token": config.objectives.ttft_s, "each further token": config.objectives.tpot_s}
    return [
        ("model", config.model + name),
        ("engine", config.engine.kind),
        ("prefill", _pool(config.prefill)),
        ("decode", _pool(config.decode)),
        ("KV transfer", f"{config.kv_transfer.backend}, lease {config.kv_transfer.lease_s:g} s"),
        ("objectives", ", ".join(f"{what} within {limit:g} s" for what, limit in promised.items() if limit) or "none"),
    ]


def _pool(pool: PoolConfig) -> str:
    if not pool.count:
        return "no workers: those of decode compute their prompts themselves"
    per_worker = f"{pool.num_gpus:g} GPU" + ("s" if pool.num_gpus > 1 else "") if pool.num_gpus else "on the CPU"
    split = f", tensor parallel {pool.tensor_parallel_size}" if pool.tensor_parallel_size > 1 else ""
    own = f", own {', '.join(pool.engine_args)}" if pool.engine_args else ""
    return f"{_count(pool.count, 'worker')}, {per_worker}{' each' if pool.count > 1 else ''}{split}{own}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
