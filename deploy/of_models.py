"""What commands share that ask a router: of which of several models, and what to make of the answer."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import urlencode


def add_model(parser: argparse.ArgumentParser) -> None:
    """The option."""
    parser.add_argument("--model", metavar="NAME", help="of several models in one application, this one (default: all)")


def of_model(what: str, model: str | None) -> str:
    """What a router is asked, of one model; None: of all."""
    return what if model is None else f"{what}{'&' if '?' in what else '?'}{urlencode({'model': model})}"


def of_each(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What was told, by model. Where there is one, or one was meant, it has no name here."""
    return told.get("models") or {"": told}


def trouble(told: dict[str, Any]) -> str:
    """Why nothing is told of one of several models; empty: it is."""
    return str(told.get("error", ""))
