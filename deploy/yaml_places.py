"""A YAML document with the line of everything in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml


class Problem(NamedTuple):
    """Something wrong in a file: where, and the rule it breaks."""

    line: int
    """Counted from 1."""
    path: str
    """The place inside the document, e.g. ``applications[0].args.prefill.count``; empty for the document itself."""
    rule: str


class YamlDocument:
    """One parsed document. ``problems`` says why there is none to work with, or which keys of it hide one another."""

    def __init__(self, text: str) -> None:
        self.data: Any = None
        self.problems: list[Problem] = []
        self._root: yaml.Node | None = None
        try:
            loader = yaml.SafeLoader(text)
            self._root = loader.get_single_node()
            if self._root is not None:
                self.problems.extend(_repeated_keys(self._root, ""))
                self.data = loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            rule = f"not YAML: {error.problem or error.context}"
            if "'\\t'" in rule:
                rule = "not YAML: a tab; indent with spaces"
            elif error.context and error.context_mark:
                rule += f" ({error.context} that began in line {error.context_mark.line + 1})"
            self.problems.append(Problem(mark.line + 1 if mark else 1, "", rule))
        except yaml.reader.ReaderError as error:
            self.problems.append(Problem(text.count("\n", 0, error.position) + 1, "", f"not YAML: {error.reason}"))

    def line(self, location: Sequence[str | int]) -> int:
        """The line of the value at ``location``, or of the innermost thing around it that the file has."""
        node = self._root
        line = node.start_mark.line if node else 0
        for step in location:
            found = _step(node, step)
            if found is None:
                break
            key, node = found
            # A mapping's name says more than its first key; a scalar's own line is where to edit.
            line = node.start_mark.line if isinstance(node, yaml.ScalarNode) else key.start_mark.line
        return line + 1


def dotted(location: Sequence[str | int]) -> str:
    """``("applications", 0, "args")`` as ``applications[0].args``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).removeprefix(".")


def _step(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The key and the value one step further in."""
    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):  # of keys given twice YAML takes the last
            if isinstance(key, yaml.ScalarNode) and _same(key.value, str(step)):
                return key, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None


def _same(written: str, asked: str) -> bool:
    return written == asked or written.removeprefix("--").replace("-", "_") == asked


def _repeated_keys(node: yaml.Node, path: str) -> Iterator[Problem]:
    """YAML lets the last of two equal keys win in silence; nobody means that."""
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                here = f"{path}.{key.value}".removeprefix(".")
                if key.value in first and key.value != "<<":
                    yield Problem(key.start_mark.line + 1, here, f"given twice, first in line {first[key.value]}; keep one")
                first.setdefault(key.value, key.start_mark.line + 1)
                yield from _repeated_keys(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated_keys(item, f"{path}[{index}]")
