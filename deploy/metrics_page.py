"""Writes the tables of docs/metrics.md anew from the catalogue: ``python -m deploy.metrics_page``. A test fails while they differ."""

from __future__ import annotations

from pathlib import Path

from core.metrics.catalogue import filled

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
