"""Takes what is for the headers of an answer from the depth of vLLM's server back out to them."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class DecisionNote:
    """One HTTP request's. The last of its decisions before the answer begins counts."""

    request: str = ""
    """By which its timelines and decisions can be asked for, also where it was refused; of several parts, the last one's."""
    text: str = ""
    """The short form of a decision."""
    retry_after_s: float | None = None
    """When a request that was given up may come again; None: nobody has said."""
    status: int | None = None
    """The HTTP status that says why one was given up; None: none was."""
    reason: str = ""
    """The same in words."""


_note: ContextVar[DecisionNote | None] = ContextVar("decision_note", default=None)


def new_note() -> DecisionNote:
    """For the request that this task, and those it begins, serve."""
    note = DecisionNote()
    _note.set(note)
    return note


def current_note() -> DecisionNote | None:
    """The note of the request at hand; None outside of any."""
    return _note.get()
