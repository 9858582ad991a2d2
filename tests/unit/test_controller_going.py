"""When a controller that is stopped takes its workers with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster import controller


def app(status: str, *deployments: str) -> Any:
    return SimpleNamespace(status=status, deployments=dict.fromkeys(deployments))


@pytest.mark.parametrize(
    ("known", "is_going"),
    [
        ({}, True),
        ({"baton": app("DELETING", "Controller-a", "Router")}, True),
        ({"baton": app("RUNNING", "Controller-a", "Router")}, False),
        ({"baton": app("DEPLOYING", "Controller-b", "Router")}, True),
        ({"baton": app("DEPLOYING")}, False),
    ],
    ids=["not known", "being deleted", "restarted or moved", "its model was taken off the list", "a new configuration is being read"],
)
def test_whether_workers_go_with_it(known: dict[str, Any], is_going: bool, monkeypatch: pytest.MonkeyPatch):
    """With the application, or with its model; never for a restart."""
    context = SimpleNamespace(app_name="baton", deployment="Controller-a")
    serve = SimpleNamespace(get_replica_context=lambda: context, status=lambda: SimpleNamespace(applications=known))
    monkeypatch.setattr(controller, "serve", serve)
    assert controller._is_going() is is_going
