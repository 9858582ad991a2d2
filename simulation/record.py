"""What became of one request, as its client saw it."""

from __future__ import annotations

from array import array

from simulation.traces import TraceRequest


class Record:
    """One offered request. Only its router's recorder changes it."""

    __slots__ = ("_counts", "_longest_s", "_times_s", "arrival_s", "cached_tokens", "ended_s", "failure", "losses", "request", "was_split")

    def __init__(self, request: TraceRequest, arrival_s: float) -> None:
        self.request = request
        self.arrival_s = arrival_s
        self.ended_s: float | None = None
        self.failure: str = ""
        """Why it was refused or given up; empty: it was not."""
        self.cached_tokens = 0
        """Prompt tokens that the worker that computed it found in its cache."""
        self.was_split: bool | None = None
        self.losses = 0
        """Workers that ended under it."""
        self._longest_s = 0.0
        self._times_s = array("d")
        self._counts = array("I")

    def came(self, tokens: int, now_s: float) -> None:
        """So many output tokens, the last of them now. When the others came in between, nobody was told."""
        if tokens == 1 and self._times_s:
            self.paused(now_s - self._times_s[-1])
        self._times_s.append(now_s)
        self._counts.append(tokens)

    def paused(self, gap_s: float) -> None:
        """There was such a gap between two tokens."""
        self._longest_s = max(self._longest_s, gap_s)

    @property
    def output_tokens(self) -> int:
        return sum(self._counts)

    @property
    def is_complete(self) -> bool:
        """Whether its client has the whole answer."""
        return self.ended_s is not None and not self.failure and self.output_tokens == self.request.output_tokens

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token, from arrival."""
        return self._times_s[0] - self.arrival_s if self._times_s else None

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first; None where there is no second."""
        tokens = self.output_tokens
        return (self._times_s[-1] - self._times_s[0]) / (tokens - 1) if tokens > 1 else None

    @property
    def longest_gap_s(self) -> float | None:
        """Between two tokens; None where there is no second."""
        return self._longest_s if self.output_tokens > 1 else None

    def lateness_s(self, tpot_s: float) -> float | None:
        """The smallest TTFT promise with which no token ``i`` came after arrival + TTFT + i * TPOT; None without tokens.

        Looked at are the first token of every leg, the last, and those whose coming was told in between.
        """
        index, late_s = -1, None
        for time_s, count in zip(self._times_s, self._counts, strict=True):
            index += count
            this_s = time_s - self.arrival_s - index * tpot_s
            late_s = this_s if late_s is None else max(late_s, this_s)
        return late_s
