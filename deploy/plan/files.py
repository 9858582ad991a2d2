"""The files that are asked for beside the answer: looked at before the work, as that takes a while; written before anything is printed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import ConfigError
from deploy.plan.answer import Answer
from deploy.plan.faults import Faults
from deploy.progress import Progress
from engine.performance.roofline.hardware import find_hardware


def look_at(faults: Faults, configuration: Path | None, drawings: Path | None) -> None:
    """Adds what is wrong with the places for the configuration file and the folder of pictures."""
    if configuration is not None:
        if configuration.is_dir():
            faults.add(f"{configuration} is a folder; name a file, such as {configuration / 'plan.yaml'}", "-o")
        elif not configuration.parent.is_dir():
            faults.add(f"there is no folder {configuration.parent}; make it first", "-o")
        elif not os.access(configuration if configuration.exists() else configuration.parent, os.W_OK):
            faults.add(f"{configuration} may not be written", "-o")
    if drawings is not None:
        there = next(path for path in (drawings, *drawings.absolute().parents) if path.exists())
        if not there.is_dir():
            faults.add(f"{there} is a file; name a folder for the pictures", "--svg")
        elif not os.access(there, os.W_OK | os.X_OK):
            faults.add(f"nothing may be written into {there}", "--svg")


def look_at_hardware(faults: Faults, names: Iterable[str]) -> None:
    """Adds what no configuration file is written for. Names that are not known are another's business."""
    for name in names:
        with suppress(ConfigError):
            if find_hardware(name).is_cpu:
                faults.add(
                    f"{name} is no GPU, and the file would ask for GPUs; leave out -o, and write it by hand: "
                    "deploy/config/cpu-demo.yaml is one for CPUs",
                    "-o",
                )


def draw(answer: Answer, folder: Path, progress: Progress) -> None:
    """Raises ConfigError where it cannot."""
    from deploy.plan.pictures import pictures

    progress.wait_for("drawing pictures")
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, svg in pictures(answer):
        with _told(folder / name):
            (folder / name).write_text(svg)
        progress.say(f"drew {folder / name}")


def write_configuration(answer: Answer, number: int, path: Path, progress: Progress) -> None:
    """Of the set-up with that number. Raises ConfigError where it cannot, or where nothing carries the rate that was asked for."""
    from deploy.plan.serve_yaml import picked, serve_yaml

    progress.wait_for("checking the configuration")
    if not answer.carries:
        most = max(each.most_per_s for each in answer.plan.ranked)
        wanted = f"{answer.question.rate_per_s:.4g} requests per second with {answer.stock.gpus} GPUs"
        raise ConfigError(
            f"{path} is not written, as nothing carries {wanted}: take more GPUs, softer promises, or say what can be carried "
            f"(--rate {_floor(most):g}) for a file that does that",
            "-o",
        )
    text = serve_yaml(answer, picked(answer, number), str(path))
    with _told(path):
        path.write_text(text)
    progress.say(f"wrote {path}; `baton check-config {path}` says what it asks for")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """A pipe that nobody reads any more is no fault of the path's."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", str(path)) from None


def _floor(rate: float) -> float:
    """To three figures, never more than it is."""
    step = 10.0 ** (math.floor(math.log10(rate)) - 2)
    return math.floor(rate / step * (1.0 + 1e-9)) * step
