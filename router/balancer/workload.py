"""How much a worker has to do, in the words of the simple policies: this router's own books, and what others have told of theirs."""

from __future__ import annotations

from router.plan import WorkerView


def requests(seen: WorkerView) -> int:
    """Requests it has, whatever they wait for."""
    return seen.legs + seen.load.others.legs


def prompt_tokens(seen: WorkerView) -> int:
    """Prompt tokens it has taken on and not computed yet."""
    return seen.outstanding_prefill_tokens + seen.load.others.prompt_tokens


def decode_tokens(seen: WorkerView) -> int:
    """Tokens it holds for those that decode, and of this router's also what they may still make."""
    return seen.outstanding_decode_tokens + seen.load.others.context_tokens
