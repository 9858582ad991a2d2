"""How long a hand-off takes between two workers: ``latency + bytes / bandwidth``, learnt from those there were.

Learnt from busy spells of the decode worker's port: a pull that shares its time with others is no sign of a slow link.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from core.ids import WorkerId
from router.predict.port import Port, Spell

_ENOUGH = 5
"""Spells of a link before it is known by itself."""
_MEMORY = 32
"""Spells after which an old one counts for a third."""
_CLIP = 2.0
"""Times its prediction, or parts of it, that a spell counts as at most."""
_LATENCY_DOUBT = 7.0
"""Times itself by which the prior's latency may be off."""
_LEAST_LATENCY_S = 1e-4
_SHORTEST_S, _LONGEST_S = 1e-6, 1e4
_MAX_LINKS = 16_384
_EVERYWHERE = WorkerId("")

Pair = tuple[WorkerId, WorkerId]


class Link(Protocol):
    """What is known of one link."""

    @property
    def latency_s(self) -> float:
        """Seconds that a transfer takes beside those of its bytes."""

    @property
    def byte_s(self) -> float:
        """Seconds per byte."""

    def seconds(self, transfer_bytes: float) -> float:
        """Until the last byte is there, when nothing is ahead of it."""


@dataclass(frozen=True, slots=True)
class LinkModel:
    """A link of which nothing is known but this."""

    latency_s: float = 0.002
    bytes_per_s: float = 10e9

    @property
    def byte_s(self) -> float:
        return 1.0 / self.bytes_per_s

    def seconds(self, transfer_bytes: float) -> float:
        return self.latency_s + transfer_bytes / self.bytes_per_s


class LinkTimes:
    """Per pair of workers; for a pair that is new, what the decode worker's other pulls took, then everybody's, then ``prior``.

    Bounded: the pairs that were not used for longest are forgotten.
    """

    def __init__(self, prior: LinkModel | None = None, max_links: int = _MAX_LINKS) -> None:
        self._prior = prior or LinkModel()
        self._max_links = max_links
        self._lines: OrderedDict[Pair, _Line] = OrderedDict()
        self._ports: dict[WorkerId, Port] = {}

    def observe(self, prefill: WorkerId, decode: WorkerId, transfer_bytes: int, seconds: float, ended_s: float) -> None:
        """A pull is complete, and took so long, until ``ended_s`` on the router's clock. What cannot be is ignored."""
        if transfer_bytes <= 0 or not _SHORTEST_S < seconds < _LONGEST_S:
            return
        port = self._ports.setdefault(decode, Port())
        spell = port.pulled(prefill, transfer_bytes, ended_s - seconds, ended_s)
        if spell is not None and spell.seconds > _SHORTEST_S:
            self._learn(decode, spell)

    def _learn(self, decode: WorkerId, spell: Spell) -> None:
        pairs = _pairs(spell.sender or _EVERYWHERE, decode)
        known, seconds = self._known(pairs), spell.seconds
        if known is not None:
            expected_s = known.seconds(spell.moved_bytes)
            seconds = min(expected_s * _CLIP, max(expected_s / _CLIP, seconds))
        for pair in dict.fromkeys(pairs):
            line = self._lines.get(pair)
            if line is None:
                line = self._lines[pair] = _Line(self._prior.latency_s)
            line.add(spell.moved_bytes, seconds)
            self._lines.move_to_end(pair)
        while len(self._lines) > self._max_links:
            self._lines.popitem(last=False)

    def link(self, prefill: WorkerId, decode: WorkerId) -> Link:
        """The one between these two; changes with what is observed."""
        return self._known(_pairs(prefill, decode)) or self._prior

    def forget(self, worker: WorkerId) -> None:
        """The worker is no member any more."""
        for pair in [pair for pair in self._lines if worker in pair]:
            del self._lines[pair]
        self._ports.pop(worker, None)

    def __len__(self) -> int:
        return len(self._lines)

    def _known(self, pairs: Iterable[Pair]) -> _Line | None:
        """The first that is known well enough."""
        for pair in pairs:
            line = self._lines.get(pair)
            if line is not None and line.count >= _ENOUGH:
                return line
        return None


class _Line:
    """Least squares with forgetting over relative errors. One imagined transfer of nothing, which takes about the prior's latency,
    tells latency from bandwidth where all are large or of one size; it is silent beside small ones that were really made."""

    __slots__ = ("_first_s", "_s0", "_s1", "_s2", "_sxy", "_sy", "byte_s", "count", "latency_s")

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self._s0 = self._s1 = self._s2 = self._sy = self._sxy = 0.0
        self.count = 0.0
        self.latency_s = first_s
        self.byte_s = 0.0

    def seconds(self, transfer_bytes: float) -> float:
        return self.latency_s + self.byte_s * transfer_bytes

    def add(self, transfer_bytes: int, seconds: float) -> None:
        kept = 1.0 - 1.0 / _MEMORY
        scale = self.seconds(transfer_bytes) if self.count >= _ENOUGH else seconds
        weight = 1.0 / scale**2
        self.count = self.count * kept + 1.0
        self._s0 = self._s0 * kept + weight
        self._s1 = self._s1 * kept + weight * transfer_bytes
        self._s2 = self._s2 * kept + weight * transfer_bytes**2
        self._sy = self._sy * kept + weight * seconds
        self._sxy = self._sxy * kept + weight * transfer_bytes * seconds
        self._solve()

    def _solve(self) -> None:
        imagined = 1.0 / (_LATENCY_DOUBT * max(self._first_s, _LEAST_LATENCY_S)) ** 2
        s0, sy = self._s0 + imagined, self._sy + imagined * self._first_s
        spread = s0 * self._s2 - self._s1**2
        if spread <= 0.0:  # by rounding alone
            return
        self.byte_s = (s0 * self._sxy - self._s1 * sy) / spread
        self.latency_s = (sy - self.byte_s * self._s1) / s0
        if self.byte_s < 0.0:
            self.byte_s, self.latency_s = 0.0, sy / s0
        elif self.latency_s < 0.0:
            self.byte_s, self.latency_s = self._sxy / self._s2, 0.0


def _pairs(prefill: WorkerId, decode: WorkerId) -> tuple[Pair, Pair, Pair]:
    """From the finest to the coarsest."""
    return (prefill, decode), (_EVERYWHERE, decode), (_EVERYWHERE, _EVERYWHERE)
