"""What was once sent must parse for ever; generated documents match the code."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from pydantic import ConfigDict

from accelerator_autopilot.contracts.frames import decode
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent
from accelerator_autopilot.contracts.metric_catalogue import METRICS, NAMES
from tests.contract.examples import EXAMPLES, models
from tests.contract.generate import (
    GOLDEN,
    REFERENCE,
    alerts_page,
    command_line_page,
    documents,
    metrics_page,
    settings_page,
)


def test_every_message_has_an_example_and_a_golden_file() -> None:
    assert set(EXAMPLES) == set(models())
    assert {p.name.split(".")[0] for p in GOLDEN.glob("*.json")} >= set(models())


def kept(written: Any, golden: Any) -> Any:
    """What was written, without the fields that were added since, at every depth."""
    if isinstance(golden, dict):
        return {key: kept(written[key], golden[key]) for key in golden}
    if isinstance(golden, list):
        return [kept(w, g) for w, g in zip(written, golden, strict=True)]
    return written


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda p: p.stem)
def test_golden_messages_parse_and_keep_every_field(path: Any) -> None:
    model = models()[path.name.split(".")[0]]
    golden = json.loads(path.read_text())
    written = json.loads(model.model_validate(golden).model_dump_json())
    assert kept(written, golden) == golden


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_newer_senders_are_understood(name: str) -> None:
    model = models()[name]
    body = json.loads(model.model_validate(EXAMPLES[name]).model_dump_json())
    assert model.model_validate(body | {"from_the_future": 1, "schema_version": 2}).schema_version == 2


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_no_example_has_a_field_that_its_model_lacks(name: str) -> None:
    strict = type(name, (models()[name],), {"model_config": ConfigDict(extra="forbid")})
    strict.model_validate(EXAMPLES[name])


def test_the_golden_frame_decodes() -> None:
    golden = decode((GOLDEN / "TelemetryFrame.v1.msgpack").read_bytes())
    assert (golden.node, golden.devices, golden.values.shape) == ("n1", ("a", "b"), (2, 2, 2))


def test_nan_and_naive_times_are_refused() -> None:
    body = EXAMPLES["DeviceEvent"]
    with pytest.raises(ValueError, match="timezone"):
        DeviceEvent.model_validate(body | {"at": "2026-01-01T00:00:00"})


def test_generated_documents_match_the_code() -> None:
    for name, document in documents().items():
        kept = json.loads((REFERENCE / f"{name}.json").read_text())
        assert kept == json.loads(json.dumps(document)), f"{name}.json is out of date: run 'make docs-generate'"
    assert (REFERENCE / "settings.md").read_text() == settings_page()
    assert (REFERENCE / "metrics.md").read_text() == metrics_page()
    assert (REFERENCE / "alerts.md").read_text() == alerts_page()
    assert (REFERENCE / "command-line.md").read_text() == command_line_page()


def test_every_setting_is_described() -> None:
    rows = [line for line in settings_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert [row for row in rows if row.endswith("| None |")] == []


def test_the_schema_has_every_metric_and_rollup() -> None:
    first = importlib.import_module("accelerator_autopilot.runtime.migrations.versions.0001_initial")
    second = importlib.import_module("accelerator_autopilot.runtime.migrations.versions.0002_rollups")
    assert set(NAMES) == set(first.COLUMNS) | set(second.ADDED)
    assert {m.name for m in METRICS if len(m.rollups) == 4} == set(second.SPREAD)
    assert {m.name for m in METRICS if len(m.rollups) == 2} == set(second.LATEST)
