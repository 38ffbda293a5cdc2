"""Write the generated documentation: API documents, reference pages, and golden files of messages that have none yet.

A golden file that exists is never written again: it is what some version once sent.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from faststream.specification import AsyncAPI
from pydantic_settings import BaseSettings

from accelerator_autopilot.anomaly.app import create_app as create_anomaly
from accelerator_autopilot.anomaly.domain.detection_engine import UNUSUAL
from accelerator_autopilot.anomaly.domain.detectors.driver_faults import FAULTS
from accelerator_autopilot.anomaly.domain.expected_device_count import KIND as MISSING
from accelerator_autopilot.anomaly.domain.expected_device_count import OPEN_AFTER_S
from accelerator_autopilot.anomaly.domain.rules import all_rules
from accelerator_autopilot.anomaly.domain.staleness import AGENT, DEVICE
from accelerator_autopilot.anomaly.domain.trend_forecast import make as all_trends
from accelerator_autopilot.anomaly.domain.wear_forecast import make as all_wear
from accelerator_autopilot.anomaly.domain.xid_catalogue import ADVICE, CATALOGUE
from accelerator_autopilot.anomaly.settings import AnomalySettings
from accelerator_autopilot.contracts.frames import encode
from accelerator_autopilot.contracts.metric_catalogue import METRICS
from accelerator_autopilot.gateway.app import create_app as create_gateway
from accelerator_autopilot.gateway.settings import GatewaySettings
from accelerator_autopilot.inference.pool.app import create_app as create_pool
from accelerator_autopilot.inference.settings import PoolSettings, WorkerSettings
from accelerator_autopilot.notifier.app import create_app as create_notifier
from accelerator_autopilot.notifier.settings import NotifierSettings
from accelerator_autopilot.runtime.settings import ServiceSettings
from accelerator_autopilot.scheduler.app import create_app as create_scheduler
from accelerator_autopilot.scheduler.settings import SchedulerSettings
from accelerator_autopilot.telemetry.agent.app import create_agent
from accelerator_autopilot.telemetry.settings import AgentSettings, RecorderSettings
from tests.contract import client_source
from tests.contract.command_line_page import command_sections
from tests.contract.examples import EXAMPLES, models
from tests.support.builders import frame

SETTINGS: dict[str, type[BaseSettings]] = {
    "Every service": ServiceSettings,
    "Agent": AgentSettings,
    "Recorder": RecorderSettings,
    "Anomaly detector": AnomalySettings,
    "Scheduler": SchedulerSettings,
    "Pool": PoolSettings,
    "Worker": WorkerSettings,
    "Notifier": NotifierSettings,
    "Gateway": GatewaySettings,
}
GOLDEN = Path(__file__).parent / "golden"
DO = "**Do:** check for XIDs and bus errors; reseat the missing GPU; reboot the node."
DOCS = Path(__file__).resolve().parents[2] / "docs"
REFERENCE = DOCS / "reference"
GENERATED_BELOW = "<!-- Everything below is written by make docs-generate. -->\n"


def documents() -> dict[str, Any]:
    """OpenAPI of the gateway, AsyncAPI of every service that consumes."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.json"
        keys.write_text("{}")
        found: dict[str, Any] = {"openapi": create_gateway(GatewaySettings(api_keys_file=keys)).openapi()}
    common: dict[str, Any] = {"node": "NODE", "nats_url": "nats://nats:4222"}
    apps = {
        "agent": create_agent(AgentSettings(**common, simulate=1, nvml=False)),
        "anomaly": create_anomaly(AnomalySettings(**common)),
        "scheduler": create_scheduler(SchedulerSettings(**common)),
        "pool": create_pool(PoolSettings(**common)),
        "notifier": create_notifier(NotifierSettings(**common)),
    }
    for name, app in apps.items():
        assert app.broker is not None
        spec = AsyncAPI(app.broker, title=f"Autopilot {name}", version="0.1.0")
        found[f"asyncapi-{name}"] = json.loads(spec.to_specification().to_json())
    return found


def settings_page() -> str:
    """Every setting of every process, from the fields themselves."""
    lines = [
        "# Settings",
        "",
        "Environment variables, read once at start. An invalid value stops the process with one line that names it.",
        "",
    ]
    seen: set[str] = set()
    for title, model in SETTINGS.items():
        lines += [f"## {title}", "", "| variable | default | what |", "| --- | --- | --- |"]
        for name, field in model.model_fields.items():
            if name in seen:
                continue
            seen.add(name)
            default = "this host's name" if name == "node" else "hidden" if name == "database_url" else field.default
            lines.append(f"| `AUTOPILOT_{name.upper()}` | {default} | {field.description} |")
        lines.append("")
    return "\n".join(lines)


def metrics_page() -> str:
    """The metric table."""
    lines = [
        "# Metrics",
        "",
        "Metrics of devices, with their source in NVML and their name in dcgm-exporter. *Read* is the sampling rate.",
        "",
        "| metric | unit | kind | read | meaning | NVML | DCGM |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [f"| `{m.name}` | {m.unit} | {m.kind} | {m.rate} | {m.help} | {m.nvml} | {m.dcgm} |" for m in METRICS]
    return "\n".join([*lines, ""])


def by_hand(page: str) -> str:
    """The part of a page that is not generated, with the mark that ends it."""
    kept, mark, _ = (REFERENCE / page).read_text(encoding="utf-8").partition(GENERATED_BELOW)
    return kept + mark


def command_line_page() -> str:
    """Every command with its options."""
    return "\n".join([by_hand("command-line.md"), *command_sections()]).rstrip() + "\n"


def alerts_page() -> str:
    """Every kind of alert: what it means, what shows it, what to do."""
    lines = [by_hand("alerts.md"), "## Kinds", ""]
    kinds = [rule.kind for rule in all_rules()] + [trend.kind for trend in [*all_trends(), *all_wear()]]
    kinds += [UNUSUAL, AGENT, DEVICE]
    for kind in kinds:
        text = re.sub(r"\{(\w+)[^}]*\}", r"*\1*", kind.summary) or "unusual for this device under its load"
        evidence = f" Evidence: {', '.join(f'`{name}`' for name in kind.metrics)}." if kind.metrics else ""
        opens = f"Opens after {kind.open_after_s:g} s and resolves" if kind.open_after_s else "Resolves"
        resolves = f"{kind.clear_after_s:g} s after it clears" if kind.clear_after_s else "when it clears"
        lines += [
            f"### {kind.name}",
            "",
            f"{kind.severity}: {text}.{evidence} {opens} {resolves}. **Do:** {kind.action}.",
            "",
        ]
    lines += [
        f"### {MISSING}",
        "",
        f"critical: fewer GPUs than `AUTOPILOT_EXPECTED_DEVICES` requires. Opens after {OPEN_AFTER_S:g} s. {DO}",
        "",
    ]
    lines += ["## XIDs", "", "| code | meaning | severity | fault of | do |", "| --- | --- | --- | --- | --- |"]
    for code, xid in sorted(CATALOGUE.items()):
        whose = "the application" if xid.application else "the hardware or driver"
        lines.append(f"| {code} | {xid.meaning} | {xid.severity} | {whose} | {ADVICE[xid.action]} |")
    lines += ["", "## Faults of drivers and NVSwitches", "", "| event | alert | severity | meaning | do |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    lines += [f"| {e} | {f.kind} | {f.severity} | {f.summary} | {f.action} |" for e, f in FAULTS.items()]
    return "\n".join([*lines, ""])


def main() -> None:
    for path, text in client_source.sources().items():
        path.write_text(text)
    REFERENCE.mkdir(exist_ok=True)
    (REFERENCE / "settings.md").write_text(settings_page())
    (REFERENCE / "metrics.md").write_text(metrics_page())
    (REFERENCE / "alerts.md").write_text(alerts_page())
    (REFERENCE / "command-line.md").write_text(command_line_page())
    for name, document in documents().items():
        (REFERENCE / f"{name}.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    GOLDEN.mkdir(exist_ok=True)
    for name, model in models().items():
        path = GOLDEN / f"{name}.v1.json"
        if not path.exists():
            path.write_text(model.model_validate(EXAMPLES[name]).model_dump_json(indent=1) + "\n")
    golden_frame = GOLDEN / "TelemetryFrame.v1.msgpack"
    if not golden_frame.exists():
        golden_frame.write_bytes(encode(frame(devices=("a", "b"), metrics=("power_w", "temp_c"), ticks=2)))


if __name__ == "__main__":
    main()
