"""Writes the JSON files anew. A test fails while they differ from what the code makes."""

from __future__ import annotations

from deploy.dashboards.every import FOLDER, files

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = files()
    for old in FOLDER.glob("*.json"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text)
