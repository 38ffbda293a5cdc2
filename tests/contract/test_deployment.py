"""The deployment files fit each other and the code."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import yaml

from accelerator_autopilot.deploy.local.product import SERVICES, stop_limit_s
from accelerator_autopilot.inference.settings import PoolSettings
from accelerator_autopilot.runtime.shutdown import GRACE_S

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()


def stages() -> dict[str, str]:
    """Each stage of the Dockerfile with its lines."""
    parts = re.split(r"^FROM \S+ AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_compose_runs_every_service_from_a_stage_of_its_own() -> None:
    assert set(SERVICES) == set(stages()) - {"base"}
    for name in SERVICES:
        assert COMPOSE[name]["build"]["target"] == name
    assert {"nats", "timescale", "grafana"} <= set(COMPOSE)


def test_only_the_agent_is_privileged_and_root() -> None:
    for name in SERVICES:
        assert bool(COMPOSE[name].get("privileged")) == (name == "agent")
        assert ("USER 10001:10001" in stages()[name]) == (name != "agent")


def test_services_run_without_rights_and_with_nothing_writable_but_their_volume() -> None:
    for name in set(SERVICES) - {"agent"}:
        service = COMPOSE[name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
    for name in SERVICES:
        assert COMPOSE[name]["env_file"] == [{"path": "autopilot.env", "required": False}]
        assert "${DATABASE_PASSWORD}" not in str(COMPOSE[name]) or name == "recorder"
    assert COMPOSE["grafana"]["environment"]["AUTOPILOT_DATABASE_USER"] == "autopilot_reader"


def test_what_is_learnt_outlives_containers() -> None:
    for name in ("agent", "anomaly", "pool"):
        assert f"{name}:/data" in COMPOSE[name]["volumes"]


def test_everybody_has_the_time_to_stop_that_the_settings_promise() -> None:
    def seconds(name: str) -> float:
        return float(COMPOSE[name]["stop_grace_period"].removesuffix("s"))

    assert seconds("pool") > PoolSettings().stop_timeout_s + 5
    for environment, workers_s in (({}, PoolSettings().stop_timeout_s), ({"AUTOPILOT_STOP_TIMEOUT_S": "90"}, 90.0)):
        assert stop_limit_s("pool", environment) > workers_s + GRACE_S
    assert stop_limit_s("agent", {}) > GRACE_S
    assert all(seconds(name) >= 20 for name in SERVICES)


def test_every_stage_starts_what_the_embedded_product_starts() -> None:
    for name, (module, *arguments) in SERVICES.items():
        command = json.loads(re.findall(r"^CMD (\[.+\])$", stages()[name], re.MULTILINE)[-1])
        assert command == ["python", "-P", "-m", module, *arguments]
        assert importlib.util.find_spec(f"{module}.__main__")


def test_the_gpu_overlay_reserves_for_agent_and_pool_alone() -> None:
    overlay = yaml.safe_load((ROOT / "deploy" / "docker" / "gpu.compose.yaml").read_text())["services"]
    assert set(overlay) == {"agent", "pool"}
    for service in overlay.values():
        assert service["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_dashboards_use_the_provisioned_data_source() -> None:
    folder = ROOT / "deploy" / "grafana"
    source = yaml.safe_load((folder / "provisioning" / "datasources" / "autopilot.yaml").read_text())["datasources"][0]
    for path in (folder / "dashboards").glob("*.json"):
        uids = set(re.findall(r'"uid": "([^"]+)"', path.read_text())) - {json.loads(path.read_text())["uid"]}
        assert uids == {source["uid"]}
