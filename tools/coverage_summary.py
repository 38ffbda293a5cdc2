"""Line and branch coverage in one line, and the ten least covered modules: python -m tools.coverage_summary FILE."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LEAST = 10
SMALL = 10  # statements; a smaller module says little


def main() -> None:
    """Print the summary of a coverage.py JSON report."""
    report: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    totals = report["totals"]
    lines = totals["covered_lines"] / totals["num_statements"]
    branches = totals["covered_branches"] / max(1, totals["num_branches"])
    modules = sorted(
        (file["summary"]["percent_covered"], name)
        for name, file in report["files"].items()
        if file["summary"]["num_statements"] >= SMALL
    )
    for percent, name in modules[:LEAST]:
        print(f"{percent:5.1f} %  {name.split('accelerator_autopilot/', 1)[-1]}")
    print(f"lines {lines:.1%}, branches {branches:.1%}")


if __name__ == "__main__":
    main()
