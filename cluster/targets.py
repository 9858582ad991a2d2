"""Whom Prometheus is to scrape, in the format of its ``http_sd_configs``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from core.ids import RouterId, WorkerId

FORGOTTEN_S = 10.0
"""A router asks for news every two seconds. One that has not for so long is gone, or is given up until it asks again."""


class RoutersHeard:
    """The routers that ask the controller for news, and where each is scraped."""

    def __init__(self) -> None:
        self._heard: dict[RouterId, tuple[str, float]] = {}

    def heard(self, router: RouterId, address: str, now_s: float) -> None:
        """It has asked."""
        self._heard[router] = (address, now_s)

    def present(self, now_s: float) -> dict[RouterId, str]:
        """Those heard from lately; the others are forgotten."""
        self._heard = {router: seen for router, seen in self._heard.items() if now_s - seen[1] <= FORGOTTEN_S}
        return {router: address for router, (address, _) in self._heard.items()}


def scrape_targets(
    app: str, controller: str, routers: Mapping[RouterId, str], workers: Mapping[WorkerId, str], ray: Iterable[str]
) -> list[dict[str, Any]]:
    """Addresses are ``host:port``. ``instance`` is a name that stays readable in a graph, and ``worker`` and ``role`` are no target's
    labels: what a worker tells has them already, and a role may change."""
    ours = [("controller", "controller", controller)] if controller else []
    ours += [("router", router, address) for router, address in sorted(routers.items())]
    ours += [("worker", worker, address) for worker, address in sorted(workers.items())]
    found = [
        {"targets": [address], "labels": {"job": "baton", "app": app, "component": component, "instance": name}}
        for component, name, address in ours
    ]
    if of_ray := sorted(ray):
        found.append({"targets": of_ray, "labels": {"job": "ray"}})
    return found
