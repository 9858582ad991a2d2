"""What all dashboards have in common: who is looked at, how far back, and the way to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

from core.metrics.of_pools import ROUTERS
from deploy.dashboards.panels import SOURCE
from deploy.dashboards.queries import APP

TAG = "baton"


def page(uid: str, title: str, description: str, rows: Mapping[str, Sequence[Builder[models.Panel]]]) -> models.Dashboard:
    """``rows`` are panels by the heading above them, from left to right and on below."""
    dashboard = build.Dashboard(title).uid(uid).description(description).tags([TAG]).readonly().refresh("10s").time("now-30m", "now")
    dashboard = dashboard.timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
    others = build.DashboardLink("Baton").type(models.DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True).include_vars(True)
    others = others.placement("")  # in sight; the SDK would hide it in a menu
    dashboard = dashboard.link(others).with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    dashboard = dashboard.with_variable(_applications())
    for heading, panels in rows.items():
        dashboard = dashboard.with_row(build.Row(heading))
        for panel in panels:
            dashboard = dashboard.with_panel(panel)
    made = dashboard.build()
    for number, made_panel in zip(count(1), made.panels or (), strict=False):
        made_panel.id_val = number  # links to a panel name it
    return made


def _applications() -> build.QueryVariable:
    """Serve applications with Baton in them; all of them together unless one is chosen."""
    variable = build.QueryVariable(APP).label("Application").datasource(SOURCE).query(f"label_values({ROUTERS.name}, {APP})")
    variable = variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True).include_all(True).all_value(".*")
    return variable.current(models.VariableOption(selected=True, text="All", value="$__all"))
