"""Words of the decision: what is to be placed, where it could go, what was chosen and why."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from core.ids import RequestId, WorkerId
from core.worker import WorkerCard, WorkerLoad
from router.arrivals import Arrival

SLACKS = 5
"""Lengths that an answer may have, as likely as each other, by which it is judged what it can bear."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as the balancer sees it."""

    request: RequestId
    prompt_tokens: int
    max_tokens: int
    splittable: bool
    excluded: frozenset[WorkerId] = frozenset()
    """Workers that refused it or died under it."""
    keeper: WorkerId | None = None
    """Where its prompt is computed and kept already: only a decode worker is to be chosen."""
    urgent: bool = False
    """Its client has tokens already and waits for more: a decode worker may compute the prompt itself, if that is sooner."""
    now_s: float = 0.0
    """The router's clock at this moment; the books of a ``WorkerView`` are on the same."""
    waited_s: float = 0.0
    """Seconds since the request arrived: the part of its time to the first token that is spent."""
    hits: Mapping[WorkerId, int] = field(default_factory=dict)
    """Tokens of its prompt, from the start, that workers hold in their prefix caches; who is missing holds none."""
    expected_tokens: float = 0.0
    """Output tokens it will probably make from now on; at most ``max_tokens``."""
    likely_tokens: Sequence[float] = ()
    """The same as quantiles, evenly spread: a mean says nothing of the many short answers beside a few long ones. Empty: not known."""
    ttft_s: float | None = None
    """Its objective for the time to the first token; None: none."""
    tpot_s: float | None = None
    """Its objective for the mean time per output token after the first."""
    first_token_early: bool = True
    """Whether prefill's token is the client's first. If not, the transfer and the decode worker's queue are part of the TTFT."""
    adapter: str | None = None
    """The LoRA adapter that it asks for."""
    adapter_promised: Set[WorkerId] = frozenset()
    """Workers that were sent something with that adapter just now, and will have it soon."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a request's prompt is computed and where its tokens are made; the same worker twice: not split."""

    prefill: WorkerId
    decode: WorkerId

    @property
    def is_split(self) -> bool:
        return self.prefill != self.decode


@dataclass(frozen=True, slots=True)
class Books:
    """This router's own work on one worker, as far as predictions need it. Never stale, unlike a report."""

    unanswered: int = 0
    """Legs sent or planned without a token so far."""
    uncached_tokens: int = 0
    """Prompt tokens to be computed that are not, as predicted, in the worker's cache; all prompts ahead together."""
    squares: int = 0
    """Of those prompts, the sum of end^2 - start^2; see ``StepWork``."""
    head_since_s: float = 0.0
    """Since when the first of those prompts has been the first."""
    head_tokens: int = 0
    """Its part of ``uncached_tokens``."""
    decoding: int = 0
    """Legs that decode, or will once their prompt is done."""
    context_tokens: int = 0
    """Their tokens so far."""
    finishes_s: Sequence[float] = ()
    """When those will probably be done, in order."""
    slacks_s: Sequence[float] = ()
    """By how much each may be held up and still keep its time per token, in order, each less ``stalled_s``: ``SLACKS`` for each, as
    nobody knows how long its answer will be."""
    stalled_s: float = 0.0
    """Seconds for which prompts computed there have held up, or will, whoever decodes there: all together since the beginning."""
    token_slacks_s: Sequence[float] = ()
    """By how much each of their steps may be longer, however many of them are, and each keep its time per token: likewise ``SLACKS`` for
    each, in order."""
    handovers: int = 0
    """Legs that will come, or have, with their prompt computed elsewhere, and have no token yet. A prompt computed here does not let them
    in before it is done: what of a step's tokens is left by those that run goes to it."""
    arrivals: Sequence[Arrival] = ()
    """What of those has KV to be pulled, in order."""

    def broken_by(self, stall_s: float) -> float:
        """How many of those that decode, and would keep their time per token, would not if they were held up so much longer, on
        average."""
        return (bisect_left(self.slacks_s, self.stalled_s + stall_s) - bisect_left(self.slacks_s, self.stalled_s)) / SLACKS

    def broken_by_steps(self, longer_s: float) -> float:
        """The same where no step of theirs is longer than by so much, however many are."""
        slacks_s = self.token_slacks_s
        return (bisect_left(slacks_s, longer_s) - bisect_left(slacks_s, 0.0)) / SLACKS

    def decoding_at(self, then_s: float, now_s: float) -> int:
        """How many of them will still run at ``then_s``. One that has outlived its prediction runs on, as far as anybody knows."""
        overdue = bisect_right(self.finishes_s, now_s)
        done = bisect_right(self.finishes_s, then_s) - overdue
        return self.decoding - max(0, done)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as this router sees it now: what it reported, and what this router has sent it since and before."""

    card: WorkerCard
    load: WorkerLoad
    outstanding_prefill_tokens: int = 0
    outstanding_decode_tokens: int = 0
    legs: int = 0
    """Legs it has of this router, those that are planned included."""
    pending_tokens: int = 0
    """Context of those legs that no report of the worker can show yet: planned, or without a token so far."""
    max_prefill_tokens: int = sys.maxsize
    """What the worker takes on before it refuses; see ``PoolConfig``."""
    headroom_tokens: int = 0
    refused: str = ""
    """Why it refused something since it was last heard to have more room; empty: it did not."""
    books: Books = Books()
    """What of this router's work is under way there."""

    @property
    def decoding(self) -> int:
        """Requests that decode there, or will; other routers' included."""
        return self.books.decoding + self.load.others.decoding

    @property
    def decode_context_tokens(self) -> int:
        """Their tokens so far, all together."""
        return self.books.context_tokens + self.load.others.context_tokens


View = Mapping[WorkerId, WorkerView]


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate with its predicted cost (any unit, smaller is better, one policy's costs compare) and why."""

    plan: Plan
    cost: float
    reason: str
    terms: Mapping[str, float] = field(default_factory=dict)
    """What the cost is made of, in seconds, where the policy predicts seconds."""
    ttft_s: float | None = None
    """Predicted, from the request's arrival."""
    tpot_s: float | None = None
    """Predicted mean, the gap between first and second token included."""
    keeps: float = 1.0
    """The chance that it keeps what it is promised."""
    breaks: float = 0.0
    """Promises given to others that it will probably break."""
    step_s: float | None = None
    """A step of the worker that decodes it, when no prompt is computed beside."""
    stall_s: float = 0.0
    """For how long its prompt holds up those that decode where it is computed."""
    prompt_s: float = 0.0
    """From the decision until its prompt is computed."""
    moves_s: float = 0.0
    """How long its KV takes from one worker to the other with nothing ahead of it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was chosen among what, and why the rest of the cluster was no candidate."""

    chosen: Scored | None
    candidates: Sequence[Scored]
    rejected: Mapping[WorkerId, str]
    reason: str
    hopeless: bool = False
    """Nobody will ever take it: waiting is pointless."""
    took_s: float = 0.0
    """Seconds the decision took."""
    awaited: Sequence[WorkerId] = ()
    """Full workers, to wait for one of which is better than any plan there is now."""
    otherwise: Scored | None = None
    """The best plan there is now, for a request that cannot wait so long."""
    priced: int = 0
    """Plans that were compared; ``candidates`` are the cheapest of them."""
