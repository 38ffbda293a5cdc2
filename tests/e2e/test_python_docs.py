"""What the documents say to Python programs holds against a running product."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.product import running_product
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTEBOOK = DOCS / "examples" / "first_day.ipynb"
DOCTEST = """
import doctest, sys
failed, tried = doctest.testfile(sys.argv[1], False, optionflags=doctest.ELLIPSIS)
print(tried, "examples")
sys.exit(bool(failed) or not tried)
"""


async def run(folder: Path, *command: str) -> str:
    """A program on the product of this folder, which it finds as users' programs do."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AUTOPILOT_")}
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, *command], env=kept | {"AUTOPILOT_DATA_DIR": str(folder)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def as_program(notebook: Path) -> str:
    """The cells of code of a notebook; what the last line of a cell shows is printed."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


async def test_the_pages_and_the_notebook_are_what_the_product_does(tmp_path: Path) -> None:
    async with running_product(tmp_path / "data", simulate=2) as (_, client):

        async def ready() -> bool:
            workers = [w for pool in await client.fleet.pools() for w in pool.workers]
            return bool(await client.fleet.devices()) and any(w.state == "ready" for w in workers)

        await eventually(ready, 60)
        for page in ("tutorials/python-client.md", "reference/python-client.md"):
            assert "examples" in await run(tmp_path / "data", "-c", DOCTEST, str(DOCS / page))
        program = tmp_path / "first_day.py"
        program.write_text(as_program(NOTEBOOK), encoding="utf-8")
        assert "jobs today" in await run(tmp_path / "data", str(program))


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads((NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
