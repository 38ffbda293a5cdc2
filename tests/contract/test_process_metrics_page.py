"""docs/reference/process-metrics.md lists every metric that a process exports about itself, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = {"Counter", "Gauge", "Histogram", "CounterMetricFamily", "GaugeMetricFamily"}


def told() -> Iterator[str]:
    """Names of metrics in the code."""
    for folder in ("shared", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                    continue
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                name = node.args[0].value
                if called in KINDS and isinstance(name, str) and name.startswith("autopilot_"):
                    yield name


def test_what_processes_tell_of_themselves_is_written_down() -> None:
    page = (ROOT / "docs" / "reference" / "process-metrics.md").read_text()
    assert set(re.findall(r"`(autopilot_\w+)`", page)) == set(told())
