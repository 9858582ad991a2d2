"""A report as one HTML page that loads nothing: rows as tables, and what happened over time as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from html import escape

from simulation.report import Report, Slice
from simulation.report_rows import rows, title
from simulation.svg import Line, Plot

_STYLE = """
  :root { color-scheme: light dark; --ink: #222; --paper: #fff; --rule: #ccc }
  @media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #16181c; --rule: #444 } }
  body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
  body { max-width: 1500px; margin: 2em auto; padding: 0 1em }
  h1 { font-size: 1.3em } h2 { font-size: 1.05em; margin: 1.6em 0 .3em }
  table { border-collapse: collapse }
  th, td { text-align: left; vertical-align: top; padding: .2em 1em .2em 0; border-bottom: 1px solid var(--rule) }
  th { font-weight: 600; white-space: nowrap }
  .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); gap: 1em; margin-top: 1.5em }
  .plots svg { width: 100%; height: auto }
"""


def page(report: Report) -> str:
    """The whole file."""
    tables = "".join(_table(head, entries) for head, entries in rows(report))
    plots = "".join(f"<figure>{plot.svg()}</figure>" for plot in plots_of(report).values())
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title(report))}</title>'
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE} figure {{ margin: 0 }}</style></head>'
        f'<body><h1>{escape(title(report))}</h1>{tables}<div class="plots">{plots}</div></body></html>\n'
    )


def plots_of(report: Report) -> dict[str, Plot]:
    """What happened over time, in minutes where that is long; by names for files."""
    course = report.course
    if not course:
        return {}
    unit_s, unit = (60.0, "minutes") if report.seconds > 600 else (1.0, "seconds")
    width_s = course[0].at_s
    marks = [fault.at_s / unit_s for fault in report.faults if fault.happened]

    def line(name: str, of: Callable[[Slice], float | None], *, is_bold: bool = False) -> Line:
        points = [(each.at_s / unit_s, value) for each in course if (value := of(each)) is not None]
        return Line(name, points or [(0.0, 0.0)], is_bold)

    def plot(name: str, y_name: str, lines: Iterable[Line], mark_y: float | None = None) -> Plot:
        return Plot(name, unit, y_name, list(lines), max_x=course[-1].at_s / unit_s, mark_y=mark_y, marks_x=marks)

    late = [each.ttft_p99_s for each in course if each.ttft_p99_s is not None]
    objective_s = report.ttft_objective_s if late and (report.ttft_objective_s or 0.0) <= 1.2 * max(late) else None
    roles = list(report.workers)
    return {
        "requests": plot(
            "Requests per second",
            "per second",
            [
                line("arrived", lambda each: each.offered / width_s),
                line("of them good", lambda each: each.good / width_s, is_bold=True),
                line("refused or given up", lambda each: each.failed / width_s),
            ],
        ),
        "ttft": plot(
            "Time to the first token, by arrival",
            "seconds",
            [
                line("p50", lambda each: each.ttft_p50_s),
                line("p90", lambda each: each.ttft_p90_s, is_bold=True),
                line("p99", lambda each: each.ttft_p99_s),
            ],
            objective_s,
        ),
        "workers": plot("Workers", "ready", [line(role, partial(_of_role, "workers", role)) for role in roles]),
        "busy": plot("Part of the time spent in steps", "part", [line(role, partial(_of_role, "busy", role)) for role in roles]),
        "queue": plot("Requests in the routers' queues", "requests", [line("waiting", lambda each: float(each.waiting))]),
        "open": plot("Requests under way", "requests", [line("under way", lambda each: float(each.open))]),
    }


def _of_role(field: str, role: str, each: Slice) -> float:
    return float(getattr(each, field)[role])


def _table(head: str, entries: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in entries)
    return (f"<h2>{escape(head)}</h2>" if head else "") + f"<table>{body}</table>"
