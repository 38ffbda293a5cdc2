"""The wheel, installed where foreign packages have our folders' names, and used from a folder that holds such names."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from tools.wheel_environment import PACKAGE, build_wheel, make_environment, make_foreign_packages, top_level_names

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_the_wheel_alone_passes_the_tour(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path / "dist")
    assert all(name.startswith(PACKAGE) for name in top_level_names(wheel))
    python = make_environment(tmp_path / "environment", wheel)
    project = tmp_path / "project"
    make_foreign_packages(project)

    began = time.monotonic()
    done = subprocess.run(
        [python.parent / "autopilot", "tour"], cwd=project, capture_output=True, text=True, timeout=220, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    for number in range(1, 8):
        assert re.search(rf"^{number}\. .+\(\d+\.\d s\)$", done.stdout, re.MULTILINE), done.stdout
    assert time.monotonic() - began < 200, "the tour took far longer than its 90 s"

    where = subprocess.run(
        [python, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert where.startswith(str(tmp_path / "environment"))
