"""Each image and install starts with exactly the extras that it is given."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"accelerator_autopilot", "tests"}

# Installs that are no stage of the Dockerfile: what is imported, with which extras.
OTHERS = {
    "worker": ("accelerator_autopilot.inference.worker.app", ["inference"]),
    "kubernetes hands": ("accelerator_autopilot.scheduler.executors.kubernetes", ["kubernetes"]),
    "docker hands": ("accelerator_autopilot.scheduler.executors.docker", ["docker"]),
    "keda": ("accelerator_autopilot.scheduler.executors.keda_app", ["keda"]),
    "client": ("accelerator_autopilot.client.sync.client", []),
    "public names": ("accelerator_autopilot as ap; [getattr(ap, name) for name in ap.__all__]", []),
    "messages": ("accelerator_autopilot.contracts.messages.jobs", []),
    "command line": ("accelerator_autopilot.cli.app", ["cli", "embedded"]),
    "replay": ("accelerator_autopilot.anomaly.replay", ["anomaly", "recorder"]),
}
APPS = {
    "agent": "accelerator_autopilot.telemetry.agent.app",
    "recorder": "accelerator_autopilot.telemetry.recorder.app",
    "anomaly": "accelerator_autopilot.anomaly.app",
    "scheduler": "accelerator_autopilot.scheduler.app",
    "notifier": "accelerator_autopilot.notifier.app",
    "gateway": "accelerator_autopilot.gateway.app",
    "pool": "accelerator_autopilot.inference.pool.app",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def stage_extras() -> dict[str, list[str]]:
    """The extras that each stage of the Dockerfile installs."""
    text = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    parts = re.split(r"^FROM \S+ AS (\w+)$", text, flags=re.MULTILINE)
    found = {}
    for name, lines in zip(parts[1::2], parts[2::2], strict=True):
        extras = re.search(r"pip install .*'\.\[([\w,]+)\]'", lines)
        found[name] = extras[1].split(",") if extras else []
    del found["base"]
    return found


def closure(extras: list[str]) -> set[str]:
    """Every distribution that the base and these extras bring, by the metadata of what is installed."""
    todo = [Requirement(f"{PROJECT['name']}[{','.join(extras)}]" if extras else PROJECT["name"])]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while todo:
        requirement = todo.pop()
        key = (normal(requirement.name), tuple(sorted(requirement.extras)))
        if key in seen:
            continue
        seen.add(key)
        if normal(requirement.name) == PROJECT["name"]:
            own = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in requirement.extras)]
            todo += [Requirement(needed) for part in own for needed in part]
            continue
        try:
            requires = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for needed in map(Requirement, requires):
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in [*requirement.extras, ""]):
                todo.append(needed)
    return {name for name, _ in seen}


CASES = {name: (APPS[name], extras) for name, extras in stage_extras().items()} | OTHERS


@pytest.mark.parametrize("name", CASES)
def test_what_starts_needs_no_more_than_its_extras(name: str) -> None:
    module, extras = CASES[name]
    had = closure(extras)
    foreign = [
        top
        for top, owners in importlib.metadata.packages_distributions().items()
        if top not in OWN and not any(normal(owner) in had for owner in owners)
    ]
    code = f"import sys\nfor name in {foreign!r}: sys.modules[name] = None\nimport {module}"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr.strip().splitlines()[-1]


def test_the_client_needs_a_handful_of_distributions() -> None:
    direct = {normal(Requirement(r).name) for r in PROJECT["dependencies"]}
    assert direct == {"nats-py", "pydantic", "pydantic-settings", "numpy", "msgpack"}
    assert not closure([]) & {"faststream", "prometheus-client", "opentelemetry-sdk", "anyio", "torch"}


@pytest.mark.parametrize("extra", ["agent", "recorder", "anomaly", "inference", "scheduler", "notifier", "gateway"])
def test_every_server_has_the_runtime(extra: str) -> None:
    assert "faststream" in closure([extra])


def test_every_stage_is_tried() -> None:
    assert set(stage_extras()) == set(APPS)
