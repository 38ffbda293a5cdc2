"""Kinds that other distributions add, and the template for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client as Nats

import accelerator_autopilot as ap
from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.inference import kinds
from tests.conftest import NatsServer
from tests.support.worker import worker_process

TEMPLATE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "kind_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A path with the template's package and the metadata that an installer writes from its pyproject.toml."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]
    (folder / "word_count").symlink_to(TEMPLATE / "word_count")
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    told = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(told)
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


@pytest.mark.nats
async def test_a_worker_runs_the_kind_of_a_plugin(nats_server: NatsServer, nc: Nats, installed: str) -> None:
    added = {"AUTOPILOT_POOL_KINDS": json.dumps(["word-count"]), "AUTOPILOT_RUN_AS": "root", "PYTHONPATH": installed}
    async with (
        worker_process(nats_server.url, **added),
        ap.connect_async(nats_server.url) as fleet,
    ):
        job = await fleet.submit({"text": "one two two"}, kind="word-count")
        assert await job.result(20) == {"counts": {"two": 2, "one": 1}}


def test_the_template_passes_its_own_test(installed: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TEMPLATE / "tests")]
    ran = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": installed}, capture_output=True, text=True, check=False, cwd=TEMPLATE
    )
    assert ran.returncode == 0, ran.stdout


class TestBrokenPlugins:
    @pytest.fixture
    def entries(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        def found(**named: str) -> None:
            made = [EntryPoint(name.replace("_", "-"), value, kinds.GROUP) for name, value in named.items()]
            monkeypatch.setattr(kinds, "entry_points", lambda group: made if group == kinds.GROUP else [])
            kinds._load.cache_clear()

        yield found
        kinds._load.cache_clear()

    @pytest.mark.parametrize(
        ("value", "why"),
        [
            ("no_such_module:KIND", "ModuleNotFoundError"),
            ("json:NOTHING", "AttributeError"),
            ("json:dumps", "is named None"),
            ("accelerator_autopilot.inference.kinds.echo:KIND", "is named 'echo'"),
        ],
    )
    def test_one_that_cannot_be_loaded_leaves_the_others_alone(self, entries: Any, value: str, why: str) -> None:
        entries(mine=value)
        assert "echo" in kinds.registry()
        assert "mine" not in kinds.registry()
        with pytest.raises(SettingsError, match=why):
            kinds.find("mine")

    def test_a_built_in_kind_cannot_be_replaced(self, entries: Any) -> None:
        entries(echo="json:dumps")
        assert kinds.registry()["echo"].__class__.__name__ == "EchoKind"

    def test_a_kind_that_there_is_not_is_named_with_those_that_there_are(self, entries: Any) -> None:
        entries()
        with pytest.raises(SettingsError, match=r"unknown kind 'mine'; available: .*echo"):
            kinds.find("mine")
