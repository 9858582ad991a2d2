"""Step times by name, for a model and hardware that nobody has measured.

``roofline:<hardware>:<model>``, and behind it in any order ``:tp4``, ``:pp2``, ``:ep8``, bits such as ``:w8a8kv16``, and ``:theory`` for
the hardware's limits instead of what vLLM was measured to come to.
"""

from __future__ import annotations

import re
from functools import cache, cached_property

import msgspec

from core.errors import ConfigError
from core.step_model import StepModel, StepWork
from engine.performance.fit import fit_steps
from engine.performance.roofline.efficiency import THEORETICAL, calibrated
from engine.performance.roofline.find_model import find_model
from engine.performance.roofline.hardware import find_hardware
from engine.performance.roofline.layout import Layout
from engine.performance.roofline.memory import kv_bytes_per_token
from engine.performance.roofline.precision import Precision
from engine.performance.roofline.roofline import Roofline
from engine.performance.roofline.setup import Setup
from engine.performance.roofline.step import Step

PREFIX = "roofline:"

_SPLIT = re.compile(r"(tp|pp|ep)([1-9][0-9]*)")
_THEORY = "theory"


class RooflineTime(msgspec.Struct, frozen=True, dict=True, tag="roofline", forbid_unknown_fields=True):
    """Step times of a model on hardware, each by name or file. Raises ConfigError where they are not known or do not suit each other.

    A step's seconds are those until its end; a full pipeline of ``pp`` stages ends ``pp`` steps in that time.
    """

    hardware: str
    """Of those that come with Baton, or FILE#NAME."""
    model: str
    """Of those that come with Baton, a folder with a config.json, such a file, or a name in the local Hugging Face cache."""
    tp: int = 1
    pp: int = 1
    ep: int = 1
    precision: str | None = None
    """Such as w8a8kv16; None: as the model was published."""
    is_calibrated: bool = True
    """As near to the hardware's limits as vLLM was measured to come; else at them."""

    def __post_init__(self) -> None:
        self.roofline.step_s(Step(batch=1.0, context_tokens=1.0))

    def step_s(self, work: StepWork) -> float:
        return self.roofline.step_s(Step.of(work))

    @cached_property
    def step_model(self) -> StepModel:
        """Six coefficients for the same, from steps of up to 32,768 tokens of a prompt and 256 requests."""
        return fit_steps([(work, self.step_s(work)) for work in _GRID], robust=False)

    @property
    def kv_bytes_per_token(self) -> int:
        """Of the whole model, as one engine hands over. Raises ConfigError if it is not the same for every token."""
        return round(kv_bytes_per_token(self.roofline.setup))

    @cached_property
    def roofline(self) -> Roofline:
        """For what else can be asked of it: operators, memory, a picture."""
        precision = None if self.precision is None else Precision.of(self.precision)
        setup = Setup(find_model(self.model), Layout(self.tp, self.pp, self.ep), precision)
        return Roofline(setup, find_hardware(self.hardware), calibrated() if self.is_calibrated else THEORETICAL)


_GRID = [
    *(StepWork(prefill_tokens=n * size, prefill_squares=n * size**2) for n in (1, 4) for size in (128, 512, 1024, 2048, 4096, 8192)),
    *(StepWork(prefill_tokens=size, prefill_squares=size**2) for size in (16384, 32768)),
    *(StepWork(batch=n, context_tokens=n * size) for n in (1, 8, 32, 64, 128, 256) for size in (512, 2048, 8192, 32768)),
    *(StepWork(2048, 2048**2, n, n * 2048) for n in (8, 64)),
]


@cache
def roofline_by_name(name: str) -> RooflineTime:
    """Raises ConfigError that says which part is wrong."""
    hardware, model, *rest = [*name.removeprefix(PREFIX).split(":"), ""]
    if not name.startswith(PREFIX) or not hardware or not model:
        raise ConfigError(f"{name!r} is not roofline:<hardware>:<model>, perhaps with :tp4, :w8a8kv16 and the like behind", "timing.name")
    options: dict[str, int | str | bool] = {}
    for part in filter(None, rest):
        if (match := _SPLIT.fullmatch(part)) is not None:
            options[match[1]] = int(match[2])
        elif part == _THEORY:
            options["is_calibrated"] = False
        else:
            options["precision"] = part
    return msgspec.convert({"hardware": hardware, "model": model, **options, "type": "roofline"}, RooflineTime)
