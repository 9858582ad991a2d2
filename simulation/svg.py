"""Line plots as SVG: small, without dependencies, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 200, 36, 48
# Okabe and Ito's colours, which colour-blind readers can tell apart, on white and on black; then again with dashes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_STYLE = """
  text { font: 12px sans-serif; fill: #333 } .title { font-size: 14px; font-weight: bold }
  .axis { stroke: #777; fill: none } .grid { stroke: #7774; fill: none } .mark { stroke: #777; stroke-dasharray: 2 3; fill: none }
  .line { fill: none; stroke-width: 1.8 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot, points in order of x."""

    name: str
    points: Sequence[tuple[float, float]]
    is_bold: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot from 0 to the largest values there are. ``mark_x``, ``marks_x`` and ``mark_y`` are drawn as dotted lines."""

    title: str
    x_name: str
    y_name: str
    lines: Sequence[Line]
    max_x: float | None = None
    max_y: float | None = None
    mark_x: float | None = None
    mark_y: float | None = None
    marks_x: Sequence[float] = ()

    def svg(self) -> str:
        """The whole file."""
        points = [point for line in self.lines for point in line.points]
        scale = _Scale(self.max_x or max(x for x, _ in points), self.max_y or max(y for _, y in points))
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(self.title)}">',
            f"<style>{_STYLE}</style>",
            f'<clipPath id="area"><rect x="{_LEFT}" y="{_TOP}" width="{scale.width}" height="{scale.height}"/></clipPath>',
            _text(_LEFT, 20, self.title, style="title"),
            *_axes(scale, self.x_name, self.y_name),
        ]
        for mark_x in (*self.marks_x, *([] if self.mark_x is None else [self.mark_x])):
            parts.append(f'<path class="mark" d="M{scale.x(mark_x):.1f} {_TOP}v{scale.height}"/>')
        if self.mark_y is not None:
            parts.append(f'<path class="mark" d="M{_LEFT} {scale.y(self.mark_y):.1f}h{scale.width}"/>')
        for index, line in enumerate(self.lines):
            parts += _drawn(line, index, scale)
        return "\n".join([*parts, "</svg>\n"])


def cdf(name: str, quantiles: Sequence[float], is_bold: bool = False) -> Line:
    """A line from equally spaced quantiles."""
    last = max(1, len(quantiles) - 1)
    return Line(name, [(value, index / last) for index, value in enumerate(quantiles)], is_bold)


class _Scale:
    def __init__(self, max_x: float, max_y: float) -> None:
        self.max_x, self.max_y = max_x or 1.0, max_y or 1.0
        self.width, self.height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(self, value: float) -> float:
        return _LEFT + value / self.max_x * self.width

    def y(self, value: float) -> float:
        return _TOP + self.height - value / self.max_y * self.height


def _axes(scale: _Scale, x_name: str, y_name: str) -> list[str]:
    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}v{scale.height}h{scale.width}"/>']
    for value in _ticks(scale.max_x):
        parts.append(f'<path class="grid" d="M{scale.x(value):.1f} {_TOP}v{scale.height}"/>')
        parts.append(_text(scale.x(value), _HEIGHT - _BOTTOM + 16, f"{value:g}", anchor="middle"))
    for value in _ticks(scale.max_y):
        parts.append(f'<path class="grid" d="M{_LEFT} {scale.y(value):.1f}h{scale.width}"/>')
        parts.append(_text(_LEFT - 6, scale.y(value) + 4, f"{value:g}", anchor="end"))
    parts.append(_text(_LEFT + scale.width / 2, _HEIGHT - 10, x_name, anchor="middle"))
    middle = _TOP + scale.height / 2
    parts.append(f'<text transform="translate(16 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>')
    return parts


def _drawn(line: Line, index: int, scale: _Scale) -> list[str]:
    colour = _COLOURS[index % len(_COLOURS)]
    dashes = ' stroke-dasharray="6 3"' if index >= len(_COLOURS) else ""
    style = f'stroke="{colour}"{dashes}' + (' style="stroke-width:3.2"' if line.is_bold else "")
    path = "L".join(f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in line.points)
    left, y = _WIDTH - _RIGHT + 14, _TOP + 8 + 18 * index
    return [
        f'<path class="line" clip-path="url(#area)" {style} d="M{path}"/>',
        f'<path class="line" {style} d="M{left} {y}h20"/>',
        _text(left + 26, y + 4, line.name),
    ]


def _text(x: float, y: float, text: str, anchor: str = "start", style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{f" class={style!r}" if style else ""}>{escape(text)}</text>'


def _ticks(largest: float) -> list[float]:
    """About six round numbers from 0 to ``largest``."""
    rough = largest / 6
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
    return [round(number * step, 10) for number in range(int(largest / step + 1e-9) + 1)]
