"""A trace as fast and as long as is wanted, without a copy of it for every time it is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

from simulation.traces import Trace, TraceRequest, cut

_MOST_S = 10_000_000
_MOST_REQUESTS = 10_000_000


class LongRequests(Sequence[TraceRequest]):
    """Those of a trace, ``scale`` times as fast, again and again for ``seconds`` (None: once), in blocks of ``block_tokens``.

    Each is made when it is asked for: a million of them would have a billion names of blocks. Every time around, blocks have names of
    their own: nobody comes back with last time's prompt. Raises ValueError where a trace of one request is to be repeated, for blocks
    that are no whole fraction of the trace's, and for more than could be simulated.
    """

    def __init__(self, trace: Trace, seconds: float | None, scale: float, block_tokens: int) -> None:
        self._once, self._scale, self._block_tokens = trace.requests, scale, block_tokens
        self._parts, left = divmod(trace.block_tokens, block_tokens)
        if left:
            raise ValueError(f"blocks of {trace.block_tokens} tokens cannot be cut into blocks of {block_tokens}")
        lasts_s = self._once[-1].arrival_s / scale if seconds is None else seconds
        if lasts_s > _MOST_S:
            raise ValueError(f"this would last {_number(lasts_s)} s; at most {_MOST_S:,} s can be simulated, which is 116 days")
        names = [block for each in self._once for block in each.block_hashes]
        self._unseen = 1 + max(names, default=0) - min(names, default=0)
        count, last_s = len(self._once), self._once[-1].arrival_s / scale
        # The last request is as far from the first of the next time around as requests are on average.
        self._round_s = last_s * count / (count - 1) if count > 1 else 0.0
        if seconds is None or seconds <= last_s:
            self._count = sum(seconds is None or each.arrival_s / scale < seconds for each in self._once)
            return
        if not self._round_s:
            raise ValueError("a trace of one request, or of one moment, cannot be repeated")
        if (requests := seconds / self._round_s * count) > _MOST_REQUESTS:
            raise ValueError(f"this would be some {_number(requests)} requests; at most {_MOST_REQUESTS:,} can be simulated")
        rounds, left_s = divmod(seconds, self._round_s)
        self._count = int(rounds) * count + sum(each.arrival_s / scale < left_s for each in self._once)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> TraceRequest: ...
    @overload
    def __getitem__(self, index: slice) -> list[TraceRequest]: ...
    def __getitem__(self, index: int | slice) -> TraceRequest | list[TraceRequest]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        again, number = divmod(index % self._count, len(self._once))
        request, shift = self._once[number], again * self._unseen
        if shift:
            request = replace(request, block_hashes=tuple(block + shift for block in request.block_hashes))
        return replace(
            cut(request, self._parts, self._block_tokens), arrival_s=again * self._round_s + self._once[number].arrival_s / self._scale
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value < 1e15 else f"{value:.0e}"
