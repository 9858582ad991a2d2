"""Step times by name: ``timing_by_name`` as measured, ``step_model_by_name`` as six coefficients fitted to the same.

A name that begins with ``roofline:`` is of a model and hardware that were not measured: roofline/named.py."""

from __future__ import annotations

from functools import cache

from core.errors import ConfigError
from core.step_model import StepModel, StepWork
from engine.performance.fit import fit_steps
from engine.performance.models import MODEL_SHAPES
from engine.performance.regimes import TwoRegimeTime
from engine.performance.roofline.named import PREFIX, RooflineTime, roofline_by_name
from engine.performance.sources import rows_by_engine, samples_of, table_of, two_regime_times
from engine.performance.table import TableTime

NamedStepTime = TableTime | TwoRegimeTime | RooflineTime

_TABLES = ("h100_h200.csv", "splitwise.csv")


def names() -> list[str]:
    """Of all that was measured: ``<gpu>-<model>-tp<GPUs per engine>``, sorted."""
    return sorted(_all())


def unknown(name: str) -> str:
    """What to say of a name that is none."""
    return f"no step times are called {name!r}; known: {', '.join(names())}, {PREFIX}<hardware>:<model>:tp<GPUs>"


def is_roofline(name: str) -> bool:
    """Whether it names a model and hardware instead of something measured."""
    return name.startswith(PREFIX)


def timing_by_name(name: str) -> NamedStepTime:
    """The step times of that name. Raises ConfigError with the known names."""
    return roofline_by_name(name) if is_roofline(name) else _find(name)[0]


@cache
def step_model_by_name(name: str) -> StepModel:
    """The six coefficients with the least relative errors over that table. Raises ConfigError with the known names."""
    if is_roofline(name):
        return roofline_by_name(name).step_model
    return fit_steps(samples_by_name(name), robust=False)


def samples_by_name(name: str) -> list[tuple[StepWork, float]]:
    """The measured (work, seconds) behind a name; there are none behind a roofline. Raises ConfigError with the known names."""
    return _find(name)[1]


def kv_bytes_per_token(name: str) -> int:
    """Bytes of KV per token of the model in that name, over all GPUs of the engine. Raises ConfigError with the known names."""
    if is_roofline(name):
        return roofline_by_name(name).kv_bytes_per_token
    _find(name)
    model = name.split("-", 1)[1].rsplit("-tp", 1)[0]
    return MODEL_SHAPES[model].kv_bytes_per_token


def _find(name: str) -> tuple[NamedStepTime, list[tuple[StepWork, float]]]:
    try:
        return _all()[name]
    except KeyError:
        raise ConfigError(unknown(name), "timing.name") from None


@cache
def _all() -> dict[str, tuple[NamedStepTime, list[tuple[StepWork, float]]]]:
    """Read once, at the first use: some milliseconds that others do not pay."""
    known: dict[str, tuple[NamedStepTime, list[tuple[StepWork, float]]]] = {}
    for file in _TABLES:
        for name, rows in rows_by_engine(file).items():
            known[name] = (table_of(rows), [row.sample for row in rows])
    for name, time in two_regime_times().items():
        known[name] = (time, samples_of(time))
    return known
