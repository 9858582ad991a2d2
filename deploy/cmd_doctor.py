"""``baton doctor``: checks before traffic, a verdict per line, and what to do about each that is not well."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.progress import Progress

if TYPE_CHECKING:
    from deploy.check_config import ServeFile
    from deploy.doctor.examination import Plan
    from deploy.doctor.line import Line

EXAMPLES = """\
examples:
  baton doctor                                      this machine
  baton doctor my.yaml                              this machine, for what that file asks for; before `baton up my.yaml`
  baton doctor my.yaml --address auto               every node of the Ray cluster this one belongs to; before `serve deploy my.yaml`
  baton doctor my.yaml --json                       for programs
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="checks before traffic: versions, NIXL, links, ports, GPUs, clocks, memory, model",
        description="Looks at this machine or at every node of a Ray cluster, moves real bytes between them, and says of each check "
        "whether it is well, and if not what to do. Starts no engine, leaves nothing running. Exits with 1 if any check fails.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, nargs="?", metavar="CONFIG", help="the YAML file that is to be served")
    parser.add_argument("--model", metavar="NAME", help="of several that the file serves: the one to look at")
    parser.add_argument("--address", help="a running Ray cluster (auto, or host:port) instead of this machine")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from deploy.doctor import report

    lines: list[Line] = []
    file = _file(arguments.file, arguments.model, lines)

    def there(app: str, progress: Progress) -> int:
        from deploy.doctor.examination import examine
        from deploy.doctor.there import There

        staff = There()
        lines.extend(examine(staff, _plan(file, serve_runs=staff.serve_runs, on_cluster=True), progress))
        return 0

    if not arguments.address:
        _here(file, lines)
    else:
        from deploy.on_ray import on_cluster

        if status := on_cluster(argparse.Namespace(address=arguments.address, app=None, model=None), there):
            return status
    print(report.as_json(lines) if arguments.json else report.text(lines))
    return 0 if report.well(lines) else 1


def _file(path: Path | None, model: str | None, lines: list[Line]) -> ServeFile | None:
    """What it asks for, and the line about it. None where it is wrong: what needs no configuration is looked at all the same."""
    from core.errors import ConfigError
    from deploy.check_config import read
    from deploy.doctor.line import judged

    if path is None:
        return None
    try:
        file = read(path)
        file = dataclasses.replace(file, served=file.served.only(model))
    except ConfigError as error:
        lines.append(
            judged("configuration", str(path), "", [(str(error), f"`baton check-config {path}`; all else is looked at without it")])
        )
        return None
    lines.append(judged("configuration", str(path), f"valid: {file.config.prefill.count} prefill, {file.config.decode.count} decode"))
    return file


def _plan(file: ServeFile | None, serve_runs: bool, on_cluster: bool) -> Plan:
    from deploy import environment
    from deploy.doctor.examination import Plan

    return Plan(
        config=file.config if file else None,
        http=(file.http_host, file.http_port) if file else None,
        http_everywhere=on_cluster and file is not None and file.raw.get("proxy_location", "EveryNode") == "EveryNode",
        serve_runs=serve_runs,
        ray_env=environment.NEEDED_ON_NODES if on_cluster else None,
    )


def _here(file: ServeFile | None, lines: list[Line]) -> None:
    from deploy.doctor.examination import examine
    from deploy.doctor.here import Here

    progress = Progress()
    progress.wait_for("starting two processes")
    staff = Here(file.config.host if file and file.config.host else "127.0.0.1")
    try:
        lines.extend(examine(staff, _plan(file, serve_runs=False, on_cluster=False), progress))
    finally:
        progress.end()
        staff.close()
