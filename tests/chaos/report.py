"""Rows of the table, the table for people, and its place in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

_COLUMNS = ("fault", "step", "there", "streams", "completed", "wrong tokens", "errors", "longest gap s", "left", "seconds to zero")


@dataclass(frozen=True)
class Row:
    """What one scene came to. ``there`` streams were at ``step``, at the victim, when the fault struck."""

    fault: str
    step: str
    there: int
    streams: int
    completed: int
    wrong_tokens: int
    errors: int
    longest_gap_s: float
    left: int
    """Leases, blocks, legs and requests still held when the time for that was over; what they are is in ``notes``."""
    to_zero_s: float
    notes: tuple[str, ...] = ()
    """What the figures do not tell: errors in words, what was left."""

    def broken(self, gap_limit_s: float) -> list[str]:
        """The promises this row breaks, in words."""
        broken = []
        if not self.there:
            broken.append("no stream was at this step: nothing is proved")
        if self.completed != self.streams:
            broken.append(f"{self.streams - self.completed} of {self.streams} streams did not complete")
        if self.wrong_tokens:
            broken.append(f"{self.wrong_tokens} wrong tokens")
        if self.errors:
            broken.append(f"{self.errors} errors")
        if self.longest_gap_s > gap_limit_s:
            broken.append(f"a gap of {self.longest_gap_s:.1f} s, and {gap_limit_s:g} s is the most")
        if self.left:
            broken.append(f"{self.left} left")
        return [f"{self.fault}, {self.step}: {what}; {'; '.join(self.notes)}" for what in broken]

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of the columns."""
        counts = (self.there, self.streams, self.completed, self.wrong_tokens, self.errors)
        return (self.fault, self.step, *map(str, counts), f"{self.longest_gap_s:.1f}", str(self.left), f"{self.to_zero_s:.1f}")


def markdown(rows: Sequence[Row]) -> str:
    """The table for the page."""
    return table(_COLUMNS, *(row.cells for row in rows))


def table(head: Sequence[str], *rows: Sequence[object]) -> str:
    """Any table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def plain(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    lines = [_COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def write(section: str, text: str, page: Path = PAGE) -> None:
    """Replaces what is between the marks of a section. Raises ValueError where the page has no such marks."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    before, found, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{page} has no marks for {section!r}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")
