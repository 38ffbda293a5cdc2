"""Building blocks of all dashboards: SQL queries, panels, variables, links, annotations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import bargauge, dashboard, stat, table, timeseries
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.cog import builder as cogbuilder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DynamicConfigValue,
    VariableRefresh,
    VariableSort,
)

DATASOURCE = DataSourceRef(type_val="grafana-postgresql-datasource", uid="autopilot")
TAGS = ["autopilot"]
ANNOTATIONS = {
    "Alerts": (
        "red",
        "SELECT opened_at AS time, coalesce(resolved_at, now()) AS timeend, summary AS text, "
        "concat_ws(',', severity, node, device) AS tags FROM alerts WHERE $__timeFilter(opened_at) LIMIT 500",
    ),
    "Decisions": (
        "blue",
        "SELECT ts AS time, issuer || ': ' || reason AS text, concat_ws(',', kind, target) AS tags "
        "FROM commands WHERE $__timeFilter(ts) LIMIT 500",
    ),
}


@dataclass
class SqlQuery(Dataquery, cogbuilder.Builder[Dataquery]):
    """A query of Grafana's PostgreSQL data source, for which the SDK has no type."""

    raw_sql: str
    format: str = "time_series"
    ref_id: str = "A"
    datasource: DataSourceRef = field(default_factory=lambda: DATASOURCE)

    def build(self) -> Dataquery:
        """Return itself: it is its own builder."""
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the form that Grafana stores."""
        return {
            "refId": self.ref_id,
            "datasource": {"type": self.datasource.type_val, "uid": self.datasource.uid},
            "format": self.format,
            "rawQuery": True,
            "rawSql": self.raw_sql,
            "editorMode": "code",
        }


def by_interval(column: str, where: str, *, rollup: str = "avg", name: str = "") -> str:
    """Return a metric of devices at the grain that fits the time range: ticks, minutes or hours.

    `where` selects devices from `devices d`, as an array: a join alone would not be pushed down into a continuous
    aggregate. Only one of the three parts is planned, as the interval is a constant by the time the server sees it.
    """
    label = name or "(SELECT d.device FROM devices d WHERE d.device_id = s.device_id)"
    parts = []
    for source, grain, source_column in (
        ("samples", "$__interval_ms < 60000", column),
        ("samples_1m", "$__interval_ms >= 60000 AND $__interval_ms < 3600000", f"{column}_{rollup}"),
        ("samples_1h", "$__interval_ms >= 3600000", f"{column}_{rollup}"),
    ):
        parts.append(
            f"SELECT s.ts AS time, {label} AS metric, s.{source_column} AS value FROM {source} s WHERE {grain} "
            f"AND s.device_id = ANY(ARRAY(SELECT d.device_id FROM devices d WHERE {where})) "
            f"AND $__timeFilter(s.ts) AND s.{source_column} IS NOT NULL"
        )
    return " UNION ALL ".join(parts) + " ORDER BY 1"


def chart(title: str, sql: str, unit: str, *, width: int = 12, stacked: bool = False) -> timeseries.Panel:
    """Return a line chart; columns time, metric, value or one column per line."""
    panel = (
        timeseries.Panel()
        .title(title)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .line_width(1)
        .fill_opacity(20 if stacked else 5)
        .show_points(common.VisibilityMode.NEVER)
        .span_nulls(300_000)
        .with_target(SqlQuery(sql))
    )
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    return panel


def number(title: str, sql: str, unit: str = "short", *, width: int = 4) -> stat.Panel:
    """Return a single large number."""
    return (
        stat.Panel().title(title).datasource(DATASOURCE).unit(unit).span(width).height(4)
        .with_target(SqlQuery(sql, "table"))
    )  # fmt: skip


def rows(title: str, sql: str, *, width: int = 12, links: dict[str, str] | None = None) -> table.Panel:
    """Return a table; `links` turns the values of a column into links to a page."""
    panel = table.Panel().title(title).datasource(DATASOURCE).span(width).height(8).with_target(SqlQuery(sql, "table"))
    for column, url in (links or {}).items():
        panel.override_by_name(column, [_link(column, url)])
    return panel


def _link(column: str, url: str) -> DynamicConfigValue:
    return DynamicConfigValue(id_val="links", value=[{"title": f"Open {column}", "url": url}])


def bars(title: str, sql: str, unit: str, *, width: int = 12) -> bargauge.Panel:
    """Return one bar per row; columns name, value."""
    return (
        bargauge.Panel().title(title).datasource(DATASOURCE).unit(unit).span(width).height(8)
        .with_target(SqlQuery(sql, "table"))
    )  # fmt: skip


def choice(name: str, sql: str, *, multi: bool) -> dashboard.QueryVariable:
    """Return a variable whose values come from the database."""
    variable = (
        dashboard.QueryVariable(name)
        .datasource(DATASOURCE)
        .query(sql)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multi)
    )
    return variable.include_all(True) if multi else variable


def page(uid: str, title: str, span: str = "now-6h") -> dashboard.Dashboard:
    """Return an empty dashboard with links to the others."""
    return (
        dashboard.Dashboard(title)
        .uid(f"autopilot-{uid}")
        .tags(TAGS)
        .refresh("30s")
        .time(span, "now")
        .timezone("browser")
        .link(
            dashboard.DashboardLink("Autopilot")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(TAGS)
            .as_dropdown(True)
            .keep_time(True)
            .include_vars(True)
        )
    )


def annotated(model: dict[str, Any]) -> dict[str, Any]:
    """Draw alerts and decisions over every chart; the SDK has no SQL annotations."""
    model["annotations"] = {
        "list": [
            {
                "name": name,
                "datasource": {"type": DATASOURCE.type_val, "uid": DATASOURCE.uid},
                "enable": name == "Alerts",
                "iconColor": color,
                "target": {"refId": "Anno", "format": "table", "rawQuery": True, "rawSql": sql},
            }
            for name, (color, sql) in ANNOTATIONS.items()
        ]
    }
    return model
