"""A setting by its old name stops the process and says the new one."""

from __future__ import annotations

import pytest

from accelerator_autopilot.anomaly.settings import AnomalySettings
from accelerator_autopilot.runtime.renamed_settings import RENAMED
from accelerator_autopilot.runtime.settings import load


def test_an_old_name_ends_the_process_with_the_new_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTOPILOT_SILENT_AFTER_S", "20")
    with pytest.raises(SystemExit) as stopped:
        load(AnomalySettings)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "AUTOPILOT_SILENT_AFTER_S was renamed: set AUTOPILOT_NODE_TIMEOUT_S\n"


def test_every_new_name_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPILOT_NODE_TIMEOUT_S", "20")
    assert load(AnomalySettings).node_timeout_s == 20.0
    assert not set(RENAMED) & set(RENAMED.values())
