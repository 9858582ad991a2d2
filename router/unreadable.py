"""Requests that vLLM's server takes for well-formed and then cannot read: the client's mistake, so 400, and no 500.

Its schemas let through what the code behind them does not expect: an image that is a number, a message of an empty list. What
then ends the rendering is whatever Python raises there.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from vllm.exceptions import VLLMValidationError

log = logging.getLogger(__name__)

_OF_THE_WRONG_SHAPE = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError)
"""What Python raises where a value is not what the code expects. Anything else may well be the server's own trouble."""

RENDERING = ("render_chat", "render_responses", "render_completion", "preprocess_chat", "preprocess_completion", "preprocess_cmpl")
"""The methods of vLLM's ``OnlineRenderer`` through which all of its routes go. Nothing has left the router by then."""


def refuse_unreadable(renderer: Any) -> None:
    """From now on ``renderer`` raises vLLM's validation error for what it trips over."""
    for name in RENDERING:
        setattr(renderer, name, _refusing(getattr(renderer, name)))


def _refusing(render: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(render)
    async def refusing(*args: Any, **kwargs: Any) -> Any:
        try:
            return await render(*args, **kwargs)
        except _OF_THE_WRONG_SHAPE as error:
            log.warning("a request could not be read", exc_info=True)
            raise VLLMValidationError(f"the request cannot be read, part of it is of the wrong shape: {error!r}") from error

    return refusing
