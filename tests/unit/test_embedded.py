"""The data folder of an embedded product."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import ConflictError, SettingsError, UnavailableError
from accelerator_autopilot.deploy.local.instance import Instance, Runtime, take_port
from accelerator_autopilot.deploy.local.product import EmbeddedProduct, Options
from accelerator_autopilot.deploy.local.servers import write_nats_config
from accelerator_autopilot.gateway.security.key_file import KeyRing
from accelerator_autopilot.runtime.api_keys import digest


def test_a_folder_belongs_to_one_process_until_it_lets_go(tmp_path: Path) -> None:
    first, second = Instance(tmp_path), Instance(tmp_path)
    first.acquire()
    with pytest.raises(ConflictError, match="another instance"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_secrets_stay_the_same_and_private(tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    instance.acquire()
    secret = instance.secret("nats")
    keys = instance.write_api_keys("the key")
    config = write_nats_config(tmp_path, 4222, "u", secret)
    assert Instance(tmp_path).secret("nats") == secret
    assert "the key" not in keys.read_text()
    assert list(json.loads(keys.read_text()).values()) == ["admin"]
    for path in (tmp_path / "nats.secret", keys, config):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (tmp_path / "nats").stat().st_mode & 0o077 == 0
    instance.release()


def test_a_runtime_of_a_process_that_is_gone_counts_for_nothing(tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    instance.acquire()
    instance.save(Runtime(2**22 + 1, "nats://x", "u", "p", "http://x", "k", "n"))
    with pytest.raises(UnavailableError, match="no instance runs"):
        instance.load()
    instance.release()


def test_a_runtime_of_a_crash_counts_for_nothing_though_its_number_is_another_process_now(tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    instance.acquire()
    instance.save(Runtime(os.getpid(), "nats://x", "u", "p", "http://x", "k", "n"))
    assert Instance(tmp_path).load().nats_url == "nats://x"
    assert instance._lock is not None
    instance._lock.close()
    with pytest.raises(UnavailableError, match="no instance runs"):
        Instance(tmp_path).load()


def test_an_empty_secret_is_no_secret_and_no_key(tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    (tmp_path / "api-key.secret").write_text("")
    keys = instance.write_api_keys("")
    assert KeyRing(keys).find("") is None
    secret = instance.secret("api-key")
    assert len(secret) >= 32
    assert instance.secret("api-key") == secret
    assert list(json.loads(instance.write_api_keys(secret).read_text())) == [digest(secret)]


def test_a_file_of_keys_that_is_half_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "api_keys.json").write_text('{"a": "adm')
    with pytest.raises(SettingsError, match=r"api_keys\.json must be a JSON object"):
        Instance(tmp_path).write_api_keys("key")


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConflictError, match=f"port {port} for nats is taken"):
            take_port(port, "nats")
    assert take_port(0, "nats") > 0


class TestEnvironment:
    def made(self, folder: Path, **more: Any) -> dict[str, str]:
        product = EmbeddedProduct(Options(folder, **more))
        runtime = Runtime(1, "nats://x", "u", "p", "http://x", "k", product.options.node, health_ports={"agent": 7})
        return product._environment(runtime, "agent", 8080, folder / "keys")

    def test_up_honours_what_the_caller_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"NODE": "rack-7", "CPU": "never", "SIMULATE": "2", "SCRAPE_URLS": "http://h/m"}.items():
            monkeypatch.setenv(f"AUTOPILOT_{name}", value)
        made = self.made(tmp_path)
        told = [made[f"AUTOPILOT_{name}"] for name in ("NODE", "CPU", "SIMULATE", "SCRAPE_URLS")]
        assert told == ["rack-7", "never", "2", "http://h/m"]
        assert self.made(tmp_path, simulate=0, node="other")["AUTOPILOT_SIMULATE"] == "0"

    def test_without_it_the_host_names_the_node(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AUTOPILOT_NODE", raising=False)
        assert self.made(tmp_path)["AUTOPILOT_NODE"] == socket.gethostname()
