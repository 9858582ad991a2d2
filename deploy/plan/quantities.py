"""Quantities as people write them on a command line."""

from __future__ import annotations

import argparse
import math


def seconds(text: str) -> float:
    """``0.03``, ``30ms``, ``2s``."""
    for suffix, factor in (("ms", 1e-3), ("s", 1.0), ("", 1.0)):
        if text.endswith(suffix):
            return _positive(text.removesuffix(suffix), "seconds above 0, such as 0.03, 30ms or 2s", text) * factor
    raise AssertionError


def positive(text: str) -> float:
    return _positive(text, "a number above 0", text)


def count(text: str) -> int:
    """A whole number from 1 on; ``8k`` is 8,192, as with prompts' lengths."""
    number = _positive(text.lower().removesuffix("k"), "a whole number from 1 on, such as 2048 or 8k", text)
    number *= 1024.0 if text.lower().endswith("k") else 1.0
    if number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number")
    return int(number)


def share(text: str) -> float:
    """From 0 on and below 1; ``90%`` is 0.9."""
    try:
        number = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        number = math.nan
    if not 0.0 <= number < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r}: give a share from 0 to below 1, or below 100%")
    return number


def price(text: str) -> tuple[str, float]:
    """``h100=2.50``."""
    gpu, _, dollars = text.rpartition("=")
    if not gpu:
        raise argparse.ArgumentTypeError(f"{text!r}: give GPU=DOLLARS, per hour, such as h100=2.50")
    return gpu, _positive(dollars, "GPU=DOLLARS with dollars above 0", text)


def gpu(text: str) -> tuple[str, int | None]:
    """``h100``, or ``h100:8`` where there are no more than eight; FILE#NAME likewise."""
    name, _, number = text.rpartition(":")
    if name and number.isdecimal():
        if int(number) < 1:
            raise argparse.ArgumentTypeError(f"{text!r}: there has to be at least one")
        return name, int(number)
    return text, None


def _positive(number: str, what: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: give {what}")
    return value
