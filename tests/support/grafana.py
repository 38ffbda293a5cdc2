"""Dashboards' queries as Grafana's PostgreSQL data source sends them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"


@dataclass(frozen=True)
class PanelQuery:
    """One query and where it stands."""

    where: str
    sql: str


def panel_queries() -> Iterator[PanelQuery]:
    """Every query of every dashboard: panels, variables, annotations."""
    for path in sorted(FOLDER.glob("*.json")):
        model = json.loads(path.read_text())
        for panel in model["panels"]:
            for target in panel.get("targets", []):
                yield PanelQuery(f"{path.stem}: {panel['title']}", target["rawSql"])
        for variable in model.get("templating", {}).get("list", []):
            yield PanelQuery(f"{path.stem}: variable {variable['name']}", variable["query"])
        for annotation in model["annotations"]["list"]:
            yield PanelQuery(f"{path.stem}: annotation {annotation['name']}", annotation["target"]["rawSql"])


def as_sent(sql: str, now: datetime, span: timedelta, nodes: list[str], node: str, device: str) -> str:
    """Macros and variables filled in, for a panel about a thousand points wide."""
    interval_s = max(1, round(span.total_seconds() / 1000))
    begin, end = (now - span).isoformat(), now.isoformat()
    sql = re.sub(r"\$__timeFilter\((.*?)\)", rf"\1 BETWEEN '{begin}' AND '{end}'", sql)
    sql = re.sub(
        r"\$__timeGroup\((.*?), \$__interval\)",
        rf"to_timestamp(floor(extract(epoch from \1)/{interval_s})*{interval_s})",
        sql,
    )
    sql = sql.replace("$__interval_ms", str(interval_s * 1000))
    sql = sql.replace("${node:sqlstring}", ",".join(f"'{n}'" for n in nodes))
    sql = sql.replace("${node}", node).replace("${device}", device)
    assert "$" not in sql, sql
    return sql
