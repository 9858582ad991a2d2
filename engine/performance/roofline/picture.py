"""The roofline as SVG: where prompts and decode batches of a model sit under what a GPU can do. Readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import msgspec

from engine.performance.roofline.operators import operators
from engine.performance.roofline.roofline import Roofline
from engine.performance.roofline.step import Chunk, Step

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 190, 40, 52
_PREFILL, _DECODE = "#d55e00", "#0072b2"
"""Two of Okabe and Ito's colours, which colour-blind readers can tell apart, on white and on black; shapes differ as well."""
_STYLE = """
  text { font: 12px sans-serif; fill: #333 } .title { font-size: 14px; font-weight: bold } .small { font-size: 11px }
  .axis { stroke: #777; fill: none } .grid { stroke: #7773; fill: none } .roof { stroke: #777; stroke-width: 2; fill: none }
  .ridge { stroke: #777; stroke-dasharray: 2 3; fill: none } .path { fill: none; stroke-width: 1.2; stroke-dasharray: 4 3 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } }
"""


class Spot(msgspec.Struct, frozen=True):
    """A step in the picture."""

    label: str
    intensity: float
    """Operations per byte, over all operators."""
    flops_per_s: float
    """Operations over the whole step's seconds, exchanges included: below the roof as far as something else holds it up."""


def spot(roofline: Roofline, label: str, step: Step) -> Spot:
    """Where a step sits."""
    ops = operators(roofline.setup, step)
    flops, moved = sum(op.count * op.flops for op in ops), sum(op.count * op.bytes for op in ops)
    return Spot(label, flops / moved, flops / roofline.step_s(step))


def picture(
    roofline: Roofline,
    title: str,
    prompts_tokens: Sequence[int] = (128, 1024, 8192),
    batches: Sequence[int] = (1, 8, 32, 128, 512),
    context_tokens: int = 2048,
) -> str:
    """A whole SVG file: per GPU, prompts of these lengths, and decode steps of these batches behind ``context_tokens`` each."""
    prefill = [spot(roofline, f"{tokens:,}", Step((Chunk(tokens),))) for tokens in prompts_tokens]
    decode = [spot(roofline, f"{batch:,}", Step((), batch, batch * context_tokens)) for batch in batches]
    peak, bandwidth = roofline.hardware.flops(roofline.setup.linear_bits), roofline.hardware.memory_bytes_per_s
    area = _Area([*prefill, *decode], peak, bandwidth)
    ridge = peak / bandwidth
    roof = "L".join((area.point(area.low_x, area.low_x * bandwidth), area.point(ridge, peak), area.point(area.high_x, peak)))
    heading = escape(title)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{heading}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="{_LEFT}" y="22">{heading}</text>',
        *_axes(area),
        f'<path class="roof" d="M{roof}"/>',
        f'<path class="ridge" d="M{area.point(ridge, peak)}L{area.point(ridge, area.low_y)}"/>',
        _text(area.x(ridge), area.y(peak) - 8, f"{peak / 1e12:,.0f} TFLOP/s from {ridge:,.0f} on", "middle"),
        *_spots(area, prefill, _PREFILL, is_prefill=True),
        *_spots(area, decode, _DECODE, is_prefill=False),
        *_legend(f"decode, by batch at {context_tokens:,}"),
    ]
    return "\n".join([*parts, "</svg>\n"])


class _Area:
    """Both axes are logarithmic, with some room around the spots and the roof."""

    def __init__(self, spots: Sequence[Spot], peak: float, bandwidth: float) -> None:
        lowest, highest = min(each.intensity for each in spots), max(each.intensity for each in spots)
        self.low_x, self.high_x = lowest / 2.0, max(highest, peak / bandwidth) * 3.0
        self.low_y, self.high_y = min(*(each.flops_per_s for each in spots), self.low_x * bandwidth) / 2.0, peak * 3.0

    def x(self, value: float) -> float:
        share = math.log(value / self.low_x) / math.log(self.high_x / self.low_x)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = math.log(value / self.low_y) / math.log(self.high_y / self.low_y)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def point(self, x: float, y: float) -> str:
        return f"{self.x(x):.1f} {self.y(y):.1f}"


def _axes(area: _Area) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>']
    for value in _powers(area.low_x, area.high_x):
        parts.append(f'<path class="grid" d="M{area.x(value):.1f} {_TOP}V{bottom}"/>')
        parts.append(_text(area.x(value), bottom + 16, f"{value:,g}", "middle"))
    for value in _powers(area.low_y, area.high_y):
        parts.append(f'<path class="grid" d="M{_LEFT} {area.y(value):.1f}H{right}"/>')
        parts.append(_text(_LEFT - 6, area.y(value) + 4, f"{value / 1e12:,g}", "end"))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 12, "operations per byte", "middle"))
    middle = (_TOP + bottom) / 2
    parts.append(f'<text transform="translate(16 {middle:.0f}) rotate(-90)" text-anchor="middle">TFLOP/s per GPU</text>')
    return parts


def _spots(area: _Area, spots: Sequence[Spot], colour: str, is_prefill: bool) -> list[str]:
    line = "L".join(area.point(each.intensity, each.flops_per_s) for each in spots)
    parts = [f'<path class="path" stroke="{colour}" d="M{line}"/>']
    for each in spots:
        x, y = area.x(each.intensity), area.y(each.flops_per_s)
        parts.append(_mark(x, y, colour, is_prefill))
        # Both may sit at one place: prompts' labels are above, batches' below on the right, where the slope of the roof is not.
        place = f'x="{x:.1f}" y="{y - 9:.1f}" text-anchor="middle"' if is_prefill else f'x="{x + 8:.1f}" y="{y + 12:.1f}"'
        parts.append(f'<text class="small" {place}>{escape(each.label)}</text>')
    return parts


def _legend(decode: str) -> list[str]:
    x, parts = _WIDTH - _RIGHT + 14, []
    for index, (name, colour, is_square) in enumerate((("prefill, by tokens", _PREFILL, True), (decode, _DECODE, False))):
        y = _TOP + 10 + 20 * index
        parts += [_mark(x, y, colour, is_square), f'<text class="small" x="{x + 10}" y="{y + 4}">{escape(name)}</text>']
    return parts


def _mark(x: float, y: float, colour: str, is_square: bool) -> str:
    if is_square:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _powers(low: float, high: float) -> list[float]:
    return [10.0**exponent for exponent in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
