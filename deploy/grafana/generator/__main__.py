"""`python -m accelerator_autopilot.deploy.grafana.generator` writes the dashboards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from accelerator_autopilot.deploy.grafana.generator.dashboards import PAGES
from accelerator_autopilot.deploy.grafana.generator.panels import annotated

FOLDER = Path(__file__).resolve().parents[1] / "dashboards"


def dashboards() -> dict[str, dict[str, Any]]:
    """Return every dashboard as Grafana's JSON model."""
    return {
        name: annotated(json.loads(JSONEncoder(sort_keys=True).encode(make().build()))) for name, make in PAGES.items()
    }


def main() -> None:
    """Write them to the folder that Grafana is provisioned from."""
    for name, model in dashboards().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(model, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
