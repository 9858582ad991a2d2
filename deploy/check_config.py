"""Reads a Ray Serve config file with a Baton application in it, and says for everything wrong the line and the rule.

``check`` is pure but for the names of vLLM's arguments, which it looks up in the installed source. ``baton up`` and
``baton check-config`` both start here, so what passes the check is what runs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec
from pydantic import BaseModel, ValidationError

from core.application_config import Application, ApplicationConfig, ListedModelConfig, application_of, is_several
from core.config import BatonConfig
from core.errors import ConfigError
from deploy.vllm_args import engine_argument_names, server_argument_names
from deploy.yaml_places import Problem, YamlDocument, dotted

IMPORT_PATH = "deploy.app:build"

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class ServeFile:
    """A file that passed: what Ray Serve reads, and what Baton reads inside it."""

    raw: Mapping[str, Any]
    """The whole document, for ``ServeDeploySchema``."""
    served: Application
    """``args`` of the Baton application."""
    application: str
    """That application's name."""
    route_prefix: str

    @property
    def config(self) -> BatonConfig:
        """The one model's; of several, the first one's."""
        return self.served.models[0]

    @property
    def http_host(self) -> str:
        return str((self.raw.get("http_options") or {}).get("host", "0.0.0.0"))

    @property
    def http_port(self) -> int:
        return int((self.raw.get("http_options") or {}).get("port", 8000))


class WrongFileError(ConfigError):
    """A config file with problems, all of them in ``problems``, first line first."""

    def __init__(self, name: str, problems: list[Problem]) -> None:
        super().__init__("\n".join(f"{name}:{p.line}: {p.path}: {p.rule}" if p.path else f"{name}:{p.line}: {p.rule}" for p in problems))
        self.args = (name, problems)  # what pickling calls __init__ with
        self.problems = problems


def read(path: Path) -> ServeFile:
    """Raises WrongFileError for a file that is wrong, ConfigError for one that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text ({error.reason} at byte {error.start})", str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", str(path)) from None
    return check(text, str(path))


def check(text: str, name: str) -> ServeFile:
    """Raises WrongFileError with every problem found. ``name`` is what messages call the file."""
    document = YamlDocument(text)
    problems = list(document.problems)
    # Where it is not even YAML, nothing else can be said.
    file = None if problems and document.data is None else _read_document(document, problems)
    if problems or file is None:
        raise WrongFileError(name, sorted(set(problems)))
    return file


def _read_document(document: YamlDocument, problems: list[Problem]) -> ServeFile | None:
    """None, and why in ``problems``, if there is no valid ``args`` to be found in it."""
    if not isinstance(document.data, dict):
        problems.append(
            Problem(document.line(()), "", "a Serve config file is a mapping with `applications`; see deploy/config/cpu-demo.yaml")
        )
        return None
    applications = document.data.get("applications")
    if not isinstance(applications, list) or not applications or not all(isinstance(item, dict) for item in applications):
        problems.append(Problem(document.line(("applications",)), "applications", "has to be a list with at least one application in it"))
        return None
    number = _ours(applications)
    ours, location = applications[number], ("applications", number)
    problems.extend(_application_problems(document, location, ours))
    problems.extend(_serve_problems(document))
    args = {} if ours.get("args") is None else ours["args"]
    args_at = (*location, "args")
    if isinstance(args, dict):
        for where, model in [(args_at, args), *_models(args_at, args)]:
            problems.extend(_vllm_problems(document, where, model))
            problems.extend(_simulated_problems(document, where, model))
    try:
        served = application_of(args)
    except ValidationError as error:
        problems.extend(_args_problems(document, args_at, error, ApplicationConfig if is_several(args) else BatonConfig))
        return None
    if not problems:  # an unknown option of the simulated engine has been named already
        places = [where for where, _ in _models(args_at, args)] or [args_at]
        for where, config in zip(places, served.models, strict=True):
            problems.extend(_expected_problems(document, where, config))
    return ServeFile(document.data, served, str(ours.get("name", "default")), str(ours.get("route_prefix", "/")))


def _models(args_at: Location, args: dict[str, Any]) -> list[tuple[Location, dict[str, Any]]]:
    """The entries of ``models`` that can be looked into, and where they are."""
    models = args.get("models")
    listed = enumerate(models if isinstance(models, list) else ())
    return [((*args_at, "models", place), model) for place, model in listed if isinstance(model, dict)]


def _ours(applications: list[dict[str, Any]]) -> int:
    """Which application is Baton's. A file may hold others; where none says so, the first is taken for a misspelt one."""
    return next((i for i, application in enumerate(applications) if application.get("import_path") == IMPORT_PATH), 0)


def _application_problems(document: YamlDocument, location: Location, application: dict[str, Any]) -> Iterator[Problem]:
    if application.get("import_path") != IMPORT_PATH:
        given = application.get("import_path")
        where = (*location, "import_path")
        rule = f"has to be `{IMPORT_PATH}`" + (f", not `{given}`" if given else "; it is missing")
        yield Problem(document.line(where), dotted(where), rule)
    prefix = application.get("route_prefix", "/")
    if not (isinstance(prefix, str) and prefix.startswith("/")):
        where = (*location, "route_prefix")
        yield Problem(
            document.line(where), dotted(where), f"has to be a path that starts with `/`, not {prefix!r}; Ray Serve would find out late"
        )
    if "args" not in application:
        where = (*location, "args")
        yield Problem(document.line(where), dotted(where), "is missing; it needs at least `model`")


def _serve_problems(document: YamlDocument) -> Iterator[Problem]:
    """What Ray Serve itself has to say, and the misspelt keys that it would pass over in silence."""
    from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema  # two seconds; not for --help

    sections: list[tuple[Location, Any, type[BaseModel]]] = [((), document.data, ServeDeploySchema)]
    sections.append((("http_options",), document.data.get("http_options"), HTTPOptionsSchema))
    sections.extend(
        (("applications", i), application, ServeApplicationSchema) for i, application in enumerate(document.data["applications"])
    )
    for location, section, schema in sections:
        for key in section if isinstance(section, dict) else ():
            if key not in schema.model_fields and not str(key).startswith("x-"):  # x-: a place for YAML anchors, by convention
                where = (*location, str(key))
                yield Problem(document.line(where), dotted(where), _unknown(str(key), schema.model_fields, inside=where))
    try:
        ServeDeploySchema.model_validate(document.data)
    except ValidationError as error:
        for detail in error.errors():
            if detail["type"] != "missing" or detail["loc"][-1] != "import_path":  # said already, in Baton's words
                yield Problem(document.line(detail["loc"]), dotted(detail["loc"]), said(detail))


def _args_problems(document: YamlDocument, args: Location, error: ValidationError, root: type[BaseModel]) -> Iterator[Problem]:
    for detail in error.errors():
        inner = tuple(step for step in detail["loc"] if step != "[key]")
        where = (*args, *inner)
        rule = said(detail)
        if detail["type"] == "extra_forbidden":
            rule = _unknown(str(inner[-1]), _section(root, inner[:-1]).model_fields, inside=inner, root=root)
        elif detail["type"] == "missing":
            meaning = _section(root, inner[:-1]).model_fields[str(inner[-1])].description or ""
            rule = f"is missing: {meaning.replace('``', '`')}"
        yield Problem(document.line(where), dotted(where), rule)


def _vllm_problems(document: YamlDocument, args: Location, given: dict[str, Any]) -> Iterator[Problem]:
    engine, server = engine_argument_names(), server_argument_names()
    for location, known, other, elsewhere in (
        (("engine", "args"), engine, server, "router.server_args"),
        (("prefill", "engine_args"), engine, server, "router.server_args"),
        (("decode", "engine_args"), engine, server, "router.server_args"),
        (("router", "server_args"), server, engine, "engine.args"),
        (("server_args",), server, engine, "engine.args"),
    ):
        section: Any = given
        for step in location:
            section = section.get(step) if isinstance(section, dict) else None
        for key in section if isinstance(section, dict) else ():
            name = str(key).removeprefix("--").replace("-", "_")
            # `headless` and its like are neither, and have been refused with a better reason.
            if (
                not known
                or name in known
                or (location[-1] == "server_args" and name in {"headless", "api_server_count", "model", "served_model_name"})
            ):
                continue
            where = (*args, *location, str(key))
            near = difflib.get_close_matches(name, known, 1)
            rule = "not an argument of vLLM's " + ("server" if known is server else "engine")
            if name in other:
                rule += f"; move it to `{elsewhere}`"
            elif name.startswith("no_") and name.removeprefix("no_") in known:
                rule += f"; write `{name.removeprefix('no_')}: false`"
            elif near:
                rule += f"; did you mean `{near[0]}`?"
            yield Problem(document.line(where), dotted(where), rule)


def _simulated_problems(document: YamlDocument, args: Location, given: dict[str, Any]) -> Iterator[Problem]:
    options = given["engine"].get("simulated") if isinstance(given.get("engine"), dict) else None
    if isinstance(options, dict) and options:
        from engine.sim_config import SimulatedEngineConfig

        known = {field.name: field for field in msgspec.structs.fields(SimulatedEngineConfig)}
        for key in options:
            if key not in known:
                where = (*args, "engine", "simulated", str(key))
                yield Problem(document.line(where), dotted(where), _unknown(str(key), known, inside=where))


def _expected_problems(document: YamlDocument, args: Location, config: BatonConfig) -> Iterator[Problem]:
    from engine import expected

    try:
        expected.check(config)
    except ConfigError as error:
        where = (*args, *error.where.split("."))
        yield Problem(document.line(where), dotted(where), error.rule)


def _section(root: type[BaseModel], location: Location) -> type[BaseModel]:
    """The class of the section at ``location`` in ``args``, which is a ``root``."""
    section = root
    for step in location:
        if isinstance(step, int):  # its list has named the class already
            continue
        annotation = section.model_fields[str(step)].annotation
        section = next(t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel))
    return section


def _unknown(key: str, known: Mapping[str, Any], inside: Location, root: type[BaseModel] = BatonConfig) -> str:
    elsewhere = [dotted(path) for path in _paths(root) if path[-1] == key and path != inside]
    near = difflib.get_close_matches(key.replace("-", "_"), known, 1)
    if near and not (elsewhere and len(inside) == 1):  # `model` beside `models` is not misspelt
        return f"unknown key; did you mean `{near[0]}`?"
    if elsewhere:
        return f"unknown key here; it belongs in args as {' or '.join(f'`{path}`' for path in elsewhere)}"
    return f"unknown key; known here: {', '.join(known)}"


def _paths(section: type[BaseModel], prefix: Location = ()) -> Iterator[Location]:
    for name, field in section.model_fields.items():
        yield (*prefix, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _paths(field.annotation, (*prefix, name))
        elif name == "models":
            yield from _paths(ListedModelConfig, (*prefix, "models[]"))


def said(detail: Any) -> str:
    """A pydantic error in a person's words, with the value that was given."""
    kind, said = detail["type"], str(detail["msg"])
    if kind in {"value_error", "missing", "extra_forbidden"}:
        return said.removeprefix("Value error, ")
    if kind in {"model_type", "dict_type", "model_attributes_type"}:
        said = "has to be a mapping, keys with values indented under it"
    said = said.replace("Input should be", "has to be").replace("greater than or equal to", "at least").split(", unable to parse")[0]
    return said if isinstance(detail["input"], dict | list) else f"{said}, not {detail['input']!r}"
