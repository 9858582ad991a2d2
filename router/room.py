"""What a router believes about who has room. Optimistic: the worker itself has the last word, and may refuse."""

from __future__ import annotations

from router.plan import WorkerView


def no_room_to_prefill(seen: WorkerView, tokens: int) -> str | None:
    """Why a worker would not take on a prompt of so many tokens now; None if it would. One prompt it always takes."""
    if seen.refused:
        return seen.refused
    ahead = seen.outstanding_prefill_tokens
    if ahead and ahead + tokens > seen.max_prefill_tokens:
        return f"{ahead} prompt tokens are ahead, and it takes on {seen.max_prefill_tokens}"
    return None


def no_room_to_decode(seen: WorkerView, tokens: int) -> str | None:
    """Why a worker would not take on a context of so many tokens now; None if it would.

    Counts what it reported free, less what this router has sent it since, less room for all it runs to grow.
    """
    if seen.refused:
        return seen.refused
    if not seen.legs:
        return None
    facts = seen.card.facts
    if seen.legs >= facts.max_num_seqs:
        return f"{seen.legs} requests are there, and it runs {facts.max_num_seqs} at once"
    free = seen.load.free_blocks * facts.block_size_tokens - seen.pending_tokens - seen.legs * seen.headroom_tokens
    if tokens > free:
        return f"{max(0, free)} tokens of KV room are left"
    return None


def no_room_for_all(seen: WorkerView, tokens: int) -> str | None:
    """Why a worker would not do a whole request of so many prompt tokens now; None if it would."""
    return no_room_to_prefill(seen, tokens) or no_room_to_decode(seen, tokens)
