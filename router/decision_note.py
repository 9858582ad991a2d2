"""Takes the short form of a decision from the depth of vLLM's server back out to the headers of the answer."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class DecisionNote:
    """One HTTP request's. The last of its decisions before the answer begins counts."""

    text: str = ""


_note: ContextVar[DecisionNote | None] = ContextVar("decision_note", default=None)


def new_note() -> DecisionNote:
    """For the request that this task, and those it begins, serve."""
    note = DecisionNote()
    _note.set(note)
    return note


def current_note() -> DecisionNote | None:
    """The note of the request at hand; None outside of any."""
    return _note.get()
