"""`make audit` never says that all is well where nothing could be checked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.dependency_review import audit

UNKNOWN = {"name": "b", "skip_reason": "not found on PyPI"}
WEAK = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
SOUND = {"name": "c", "version": "1", "vulns": []}


def of(folder: Path, output: str, errors: str = "") -> str | None:
    program = folder / "pip-audit"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stdout.write({output!r})\nsys.exit({errors!r} or 0)\n", encoding="utf-8"
    )
    program.chmod(0o755)
    return audit(folder)


def test_what_is_known_is_named_and_what_was_checked_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert of(tmp_path, json.dumps({"dependencies": [UNKNOWN, WEAK, SOUND]})) == "a 1: CVE-1, fixed in 2"
    assert "2 of 3 packages checked" in capsys.readouterr().out


def test_without_a_database_it_says_that_nothing_was_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert of(tmp_path, json.dumps({"dependencies": [UNKNOWN]})) is None
    assert "NOT checked, for example: not found on PyPI" in capsys.readouterr().out
    assert of(tmp_path, "", "requests.exceptions.ConnectionError: no route") is None
    assert "NOT checked" in capsys.readouterr().out


def test_a_tool_that_fails_fails_the_review(tmp_path: Path) -> None:
    assert of(tmp_path, "", "unknown option") == "pip-audit failed: unknown option"
