"""The alerts: each can be acted on, and asks for nothing that nobody tells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.promql import metrics
from tests.support.watching import BATONS, RULES

PAGE = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text()
CHAPTERS = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
AT_ONCE = {"BatonControllerFailing", "BatonWorkersRestarting", "BatonLeasesExpiring", "BatonScalingFailing"}
"""They look back over minutes already."""


def test_each_alert_has_its_chapter() -> None:
    """docs/alerts.md has one for each, and none that no alert leads to."""
    assert sorted(CHAPTERS) == sorted(RULES)


@pytest.mark.parametrize("name", RULES)
def test_alerts_can_be_acted_on(name: str) -> None:
    """Each has a name of ours, a severity, a sentence, and a line that leads to what to do; and waits until it is no hiccup."""
    rule = RULES[name]
    assert name.startswith("Baton")
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert len(rule["annotations"]["summary"].split()) >= 4
    assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
    assert ("for" in rule) == (name not in AT_ONCE)


@pytest.mark.parametrize("name", RULES)
def test_chapters_say_what_it_means_and_what_to_do(name: str) -> None:
    """Both, in that order, with the severity that the rule has."""
    chapter = PAGE.split(f"### {name}\n")[1].split("\n#")[0]
    assert f"`{RULES[name]['labels']['severity']}`" in chapter
    assert re.search(r"\*\*Means\*\*.*\*\*Do\*\*", chapter, re.DOTALL)


@pytest.mark.parametrize("name", RULES)
def test_alerts_ask_for_what_is_told(name: str) -> None:
    """Metrics of the catalogue, vLLM's, and Prometheus' own word of whether a scrape worked."""
    asked = metrics(RULES[name]["expr"])
    assert asked
    assert {metric for metric in asked if not metric.startswith("vllm:")} <= BATONS | {"up"}
