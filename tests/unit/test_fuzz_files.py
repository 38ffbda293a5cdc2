"""Whatever our own files hold after a crash or from another hand, a reader has its answer or says what is wrong."""

from __future__ import annotations

import io
import json
import os
import string
import tempfile
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accelerator_autopilot.anomaly.adapters import model_snapshot
from accelerator_autopilot.anomaly.domain.learned.calibrated_detector import CalibratedDetector
from accelerator_autopilot.anomaly.domain.learned.snapshot import Snapshot
from accelerator_autopilot.cli.payload_inputs import read_lines, read_payload
from accelerator_autopilot.contracts.errors import InvalidInputError, SettingsError, UnavailableError
from accelerator_autopilot.contracts.messages.jobs import DeadJob
from accelerator_autopilot.contracts.messages.notifications import Subscription
from accelerator_autopilot.contracts.subjects import untoken
from accelerator_autopilot.deploy.local.instance import Instance, Runtime, read_keys_file, replace_text
from accelerator_autopilot.gateway.security.key_file import Caller, load_keys
from accelerator_autopilot.inference.jobs.dead_lettering import named_by
from accelerator_autopilot.inference.jobs.decoding import read_job
from accelerator_autopilot.notifier.domain.message_formats import template
from accelerator_autopilot.scheduler.application.observation_snapshot import _packed, _unpacked
from accelerator_autopilot.scheduler.domain import npz_files
from accelerator_autopilot.scheduler.domain.npz_files import load_arrays
from accelerator_autopilot.scheduler.domain.observation_arrays import COLUMNS
from accelerator_autopilot.scheduler.policies.network import load_checkpoint
from accelerator_autopilot.scheduler.policies.shadow_policies import ShadowPolicies
from tests.support.builders import T0, alert
from tests.support.fuzzing import JSON, LINES, at_most, fuzzed, near, near_json

KEYS = {"a" * 64: "admin", "b" * 64: {"role": "viewer", "user": "ada"}}
RUNTIME = asdict(Runtime(os.getpid(), "nats://x", "u", "p", "http://x", "k", "n", "", {"agent": 1}))
POLICY = Path(load_checkpoint.__code__.co_filename).parents[1] / "data"
BODY = {"id": "j1", "payload": {"text": "x"}, "after": ["j0"], "ttl_s": 5.0, "submitted_at": "2026-01-01T00:00:00Z"}


def spoilt(example: Any) -> st.SearchStrategy[bytes]:
    return st.one_of(near(json.dumps(example).encode()), near_json(example).map(lambda v: json.dumps(v).encode()))


@fuzzed(60)
@given(spoilt(KEYS))
def test_keys(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "api_keys.json"
        path.write_bytes(content)
        with suppress(SettingsError):
            assert all(isinstance(caller, Caller) for caller in load_keys(path).values())
        try:
            Instance(Path(folder)).write_api_keys("k" * 20)
        except SettingsError:
            assert path.read_bytes() == content, "keys of others are not thrown away"
        else:
            assert "admin" in read_keys_file(path).values()


def test_keys_are_replaced_as_a_whole_and_stay_readable_for_whom_they_were(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{}")
    path.chmod(0o640)
    replace_text(path, "[]")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("[]", 0o640)
    assert list(tmp_path.iterdir()) == [path]


@fuzzed(60)
@given(near(b"kX9-".ljust(32, b"z")))
def test_secrets(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "nats.secret").write_bytes(content)
        secret = Instance(Path(folder)).secret("nats")
        assert len(secret) >= 16
        assert secret.isascii()
        assert Instance(Path(folder)).secret("nats") == secret


@fuzzed(60)
@given(spoilt(RUNTIME), spoilt({"agent": {"pid": 7, "restarts": 0}}))
def test_what_an_instance_tells(runtime: bytes, processes: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "runtime.json").write_bytes(runtime)
        (Path(folder) / "processes.json").write_bytes(processes)
        with suppress(UnavailableError):
            assert Instance(Path(folder)).load().pid > 0
        for state in Instance(Path(folder)).load_processes().values():
            assert state.keys() >= {"pid", "restarts"}


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**70, "1", 1.0, None])
def test_no_group_of_processes_is_an_instance(tmp_path: Path, pid: object) -> None:
    (tmp_path / "runtime.json").write_text(json.dumps(RUNTIME | {"pid": pid}))
    with pytest.raises(UnavailableError):
        Instance(tmp_path).load()


@fuzzed(25)
@given(st.data())
def test_what_was_learnt(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, watcher = Path(folder) / "learned.npz", CalibratedDetector(1.0)
        watcher.grow(2)
        model_snapshot.save(path, Snapshot([("n1", "a", False)], watcher.snapshot()))
        path.write_bytes(data.draw(near(path.read_bytes())))
        found = model_snapshot.load(path)
        assert found is None or isinstance(found, Snapshot)


@pytest.mark.parametrize(
    "saved",
    [[], None, {"version": 1}, {"version": 1, "roster": 7, "tensors": {}}, {"version": 1, "roster": [1], "tensors": {}},
     {"version": 1, "roster": [("n", "d", 0)], "tensors": [1]}, torch.zeros(3)],
)  # fmt: skip
def test_another_file_of_torch_is_nothing_learnt(tmp_path: Path, saved: object) -> None:
    torch.save(saved, tmp_path / "learned.pt")
    assert model_snapshot.load(tmp_path / "learned.npz") is None


@pytest.mark.parametrize("name", [p.name for p in sorted(POLICY.glob("*.npz"))])
@fuzzed(60)
@given(data=st.data())
def test_policies(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.npz"
        path.write_bytes(data.draw(near((POLICY / name).read_bytes())))
        with suppress(SettingsError):
            load_checkpoint(path)


@fuzzed(80)
@given(st.data())
def test_looks_at_pools(data: st.DataObject) -> None:
    content = _packed(
        {"a": np.ones((3, len(COLUMNS)), np.float32), "b": np.ones((1, len(COLUMNS)), np.float32)}, 5.0, "w"
    )
    try:
        ShadowPolicies({}, 5.0).restore(_unpacked(data.draw(near(content)), 5.0, "me"))
    except (ValueError, KeyError, TypeError, IndexError):
        return


def test_arrays_that_unpack_to_far_more_than_they_are_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    np.savez_compressed(out, a=np.zeros(2**21))
    monkeypatch.setattr(npz_files, "MAX_BYTES", 2**20)
    with at_most(5.0, mib=8), pytest.raises(ValueError, match="unpacks to"):
        load_arrays(out.getvalue())


@fuzzed(60)
@given(st.one_of(LINES, st.binary(max_size=50).map(lambda b: b.decode(errors="replace")), st.just("[" * 60_000)))
def test_inputs_of_commands(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(text, errors="replace")
        for read in (lambda: read_lines(str(path)), lambda: read_payload("echo", [str(path)], [f"x={text[:50]}"])):
            try:
                read()
            except InvalidInputError:
                continue


@fuzzed(60)
@given(
    st.one_of(LINES, st.text(alphabet=string.printable, max_size=60), st.just("[" * 15_000), st.just('["$summary"]'))
)
def test_templates(text: str) -> None:
    try:
        subscription = Subscription(
            id="s", url="http://127.0.0.1/x", secret="x" * 12, created_at=T0, channel="template", template=text
        )
    except ValueError:
        return
    try:
        template(subscription, alert(), "m")
    except InvalidInputError:
        return


@fuzzed(60)
@given(
    st.one_of(spoilt(BODY), JSON.map(lambda v: json.dumps(v).encode())),
    st.sampled_from(["j1", "=00", "a.b", "=ZZ.x", "ü", "=F0=9F" * 60]),
)
def test_jobs(body: bytes, tokens: str) -> None:
    subject = f"jobs.{untoken(tokens)[:5].replace('.', '') or 'x'}.normal.{tokens}"
    try:
        read_job(subject, body, 7, datetime.now(UTC))
    except (ValueError, RecursionError):
        kind, identity = named_by(subject, 7)
        DeadJob(id=identity, kind=kind, reason="invalid", subject=subject, at=T0)


@pytest.mark.parametrize(
    "subject", ["due.=00", "jobs.=00.high.=00", "later." + "=F0=9F=98=80" * 60, "waiting.=", "jobs.a.b.=00.1"]
)
def test_a_dead_letter_can_be_written_about_any_subject(subject: str) -> None:
    kind, identity = named_by(subject, 7)
    DeadJob(id=identity, kind=kind, reason="invalid", subject=subject, at=T0)
