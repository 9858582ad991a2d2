"""The names of vLLM's engine and server arguments, read from its source: importing vLLM would take ten seconds and all of torch."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

BOTH = frozenset({"reasoning_parser", "reasoning_parser_plugin"})
"""Declared as engine arguments, meant for the server as well."""


@cache
def engine_argument_names() -> frozenset[str]:
    """Empty where vLLM is not installed."""
    return _fields("engine/arg_utils.py", {"EngineArgs", "AsyncEngineArgs"})


@cache
def server_argument_names() -> frozenset[str]:
    """Empty where vLLM is not installed."""
    names = _fields("entrypoints/launchers/cli_args.py", {"BaseFrontendArgs", "FrontendArgs"})
    return names | BOTH if names else names


def _fields(file: str, classes: set[str]) -> frozenset[str]:
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    source = Path(spec.submodule_search_locations[0], file)
    if not source.exists():
        return frozenset()
    return frozenset(
        field.target.id
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name in classes
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and not field.target.id.startswith("_")
    )
