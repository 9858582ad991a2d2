"""Five kinds of panels, each with the look that all of its kind share."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as of_dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models.dashboard import DataSourceRef, DataTransformerConfig, Panel, Threshold, ThresholdsMode
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
"""Whichever is chosen above the dashboard."""
HEIGHT = 8
RED, ORANGE, GREEN, PLAIN = "red", "orange", "green", "text"

REQUESTS, TOKENS, SECONDS, RATIO, COUNT, BYTES, BYTES_PER_S = "reqps", "short", "s", "percentunit", "short", "bytes", "Bps"
"""Grafana's names of units; tokens have none."""


@dataclass(frozen=True, slots=True)
class Query:
    """``legend`` names a series by its labels, like ``{{class}} p90``. ``exemplars``: dots beside it lead to traces, if there are any."""

    expression: str
    legend: str = ""
    exemplars: bool = False


def graph(
    title: str, description: str, unit: str, *queries: Query, stacked: bool = False, width: int = 12, most: float | None = None
) -> Builder[Panel]:
    """Lines over time, the largest first in the legend. ``most`` is the top of the axis where there is one."""
    panel = timeseries.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(width).height(HEIGHT).min(0)
    if most is not None:
        panel = panel.max(most)
    legend = common.VizLegendOptions().display_mode(looks.LegendDisplayMode.TABLE).placement(looks.LegendPlacement.BOTTOM)
    legend = legend.show_legend(True).calcs(["lastNotNull", "max"]).sort_by("Max").sort_desc(True)
    tooltip = common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING)
    panel = panel.legend(legend).tooltip(tooltip).line_width(1).fill_opacity(40 if stacked else 8).show_points(looks.VisibilityMode.NEVER)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    return panel.targets(_targets(queries))


def signed_graph(title: str, description: str, unit: str, *queries: Query, width: int = 12) -> Builder[Panel]:
    """Lines around zero."""
    panel = timeseries.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(width).height(HEIGHT)
    legend = common.VizLegendOptions().display_mode(looks.LegendDisplayMode.TABLE).placement(looks.LegendPlacement.BOTTOM)
    panel = panel.legend(legend.show_legend(True).calcs(["lastNotNull"])).line_width(1).fill_opacity(0)
    return panel.axis_centered_zero(True).show_points(looks.VisibilityMode.NEVER).targets(_targets(queries))


def number(title: str, description: str, unit: str, *queries: Query, good: tuple[tuple[float | None, str], ...] = ()) -> Builder[Panel]:
    """The newest value, large. ``good`` are colours from a value on; the first begins at None."""
    panel = stat.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(4).height(4)
    steps = [Threshold(value=value, color=color) for value, color in good or ((None, PLAIN),)]
    panel = panel.thresholds(of_dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).color_mode(looks.BigValueColorMode.VALUE)
    return panel.graph_mode(looks.BigValueGraphMode.AREA).no_value("none").targets(_targets(queries))


def heat(title: str, description: str, unit: str, query: Query, width: int = 12) -> Builder[Panel]:
    """How many in each bucket of a histogram, over time. ``query`` gives one series per ``le``."""
    panel = heatmap.Panel().title(title).description(description).datasource(SOURCE).span(width).height(HEIGHT)
    panel = panel.y_axis(heatmap.YAxisConfig().unit(unit)).cell_gap(1)
    panel = panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
    return panel.targets([_target(query, "A").legend_format("{{le}}").format(PromQueryFormat.HEATMAP).range()])


def rows(title: str, description: str, query: Query, *, hidden: tuple[str, ...] = (), width: int = 12) -> Builder[Panel]:
    """A table of the labels of each series there is now, without those in ``hidden``."""
    panel = table.Panel().title(title).description(description).datasource(SOURCE).span(width).height(HEIGHT).unit(COUNT)
    without = {"excludeByName": dict.fromkeys(["Time", "Value", *hidden], True)}
    panel = panel.with_transformation(DataTransformerConfig(id_val="organize", options=without))
    return panel.targets([_target(query, "A").format(PromQueryFormat.TABLE).instant()])


def _targets(queries: tuple[Query, ...]) -> list[Builder[Dataquery]]:
    return [_target(query, chr(ord("A") + place)).range() for place, query in enumerate(queries)]


def _target(query: Query, name: str) -> prometheus.Dataquery:
    asked = prometheus.Dataquery().datasource(SOURCE).expr(query.expression).legend_format(query.legend or "__auto").ref_id(name)
    return asked.exemplar(True) if query.exemplars else asked
