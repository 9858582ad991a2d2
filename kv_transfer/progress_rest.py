"""A rest for NIXL's progress thread, which polls without a pause otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def rest_progress_thread(rest_us: int) -> None:
    """Makes every NIXL agent created from now on in this process rest between polls; 0 changes nothing."""
    if rest_us <= 0:
        return
    import nixl._api as api

    if not hasattr(api, "nixlBind"):
        import nixl_cu12._api as api
    make_agent: Callable[..., Any] = api.nixlBind.nixlAgent
    if getattr(make_agent, "rests", False):
        return

    def resting_agent(name: str, config: Any) -> Any:
        config.pthrDelay = rest_us
        return make_agent(name, config)

    resting_agent.rests = True  # type: ignore[attr-defined]
    api.nixlBind.nixlAgent = resting_agent
