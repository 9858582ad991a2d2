"""Why a request is refused: in words for its client, and as one of few words that can be counted."""

from __future__ import annotations

from core.metrics.words import Why


class Reason(str):
    """The words, with the one word beside them: whoever passes them on need not know of it."""

    __slots__ = ("why",)

    def __new__(cls, why: Why, text: str) -> Reason:
        """``text`` is for the client."""
        reason = super().__new__(cls, text)
        reason.why = why
        return reason

    why: Why

    def __getnewargs__(self) -> tuple[Why, str]:  # type: ignore[override]  # for copies; str's own takes one
        return self.why, str(self)


def why_of(reason: str) -> Why:
    """Of words that come without it, nothing is known."""
    return reason.why if isinstance(reason, Reason) else Why.OTHER
