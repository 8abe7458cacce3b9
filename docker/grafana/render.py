"""Writes the dashboards' JSON from `panels.py`: `make dashboards`. The same code always writes the same bytes."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from panels import DASHBOARDS, Panel

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="larimar-prometheus")
BUILDERS = {"timeseries": timeseries.Panel, "stat": stat.Panel, "heatmap": heatmap.Panel}
SIZES = {"timeseries": (8, 12), "stat": (4, 6), "heatmap": (8, 12)}  # height and width; a row has 24 columns


def panel(what: Panel) -> timeseries.Panel | stat.Panel | heatmap.Panel:
    """The SDK's builder for one panel."""
    height, width = SIZES[what.kind]
    built = BUILDERS[what.kind]().title(what.title).datasource(SOURCE).unit(what.unit).height(height).span(width)
    if what.about:
        built = built.description(what.about)
    for number, (legend, query) in enumerate(what.queries.items()):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + number)).range()
        if what.kind == "heatmap":
            target = target.format(PromQueryFormat.HEATMAP)
        elif "_bucket" in query:
            target = target.exemplar(True)
        built = built.with_target(target)
    return built


def render(name: str) -> str:
    """A dashboard's JSON."""
    built = (
        dashboard.Dashboard(f"Larimar: {name}")
        .uid(f"larimar-{name}")
        .tags(["larimar"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
    )
    for what in DASHBOARDS[name]:
        built = built.with_panel(panel(what))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(render(name))
