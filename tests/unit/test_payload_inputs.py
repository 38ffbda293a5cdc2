"""What the command line reads for a job: bounded, whatever it is."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from accelerator_autopilot.cli import payload_inputs
from accelerator_autopilot.cli.payload_inputs import read_lines, read_payload
from accelerator_autopilot.contracts.errors import InvalidInputError


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_inputs, "MAX_PAYLOAD_BYTES", 10_000)
    monkeypatch.setattr(payload_inputs, "MAX_LINES_BYTES", 20_000)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero on this system")
@pytest.mark.parametrize("kind", ["echo", "embed", "analyze-logs", "detect-anomalies", "classify-image"])
def test_a_source_without_an_end_is_refused(kind: str) -> None:
    with pytest.raises(InvalidInputError, match="more than 10000 bytes: split it"):
        read_payload(kind, ["/dev/zero"])
    with pytest.raises(InvalidInputError, match="more than 20000 bytes: split it"):
        read_lines("/dev/zero")


def test_standard_input_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            buffer[:] = b"y" * len(buffer)
            return len(buffer)

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(Endless())))
    with pytest.raises(InvalidInputError, match="more than 10000 bytes"):
        read_payload("echo", ["-"])
    with pytest.raises(InvalidInputError, match="more than 20000 bytes"):
        read_lines("-")


def test_a_folder_that_is_too_large_is_refused(tmp_path: Path) -> None:
    import random

    chance = random.Random(1)
    for number in range(4):
        (tmp_path / f"{number}.log").write_bytes(chance.randbytes(5_000))
    with pytest.raises(InvalidInputError, match="more than 10000 bytes"):
        read_payload("analyze-logs", [str(tmp_path)])


def test_what_fits_is_read_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\ntwo ü".encode())
    assert read_payload("echo", [str(tmp_path / "a.txt")]) == {"text": "one\ntwo ü"}
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"text": "x"}\n')))
    assert read_lines("-") == [{"text": "x"}]
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInputError, match="UTF-8"):
        read_payload("echo", [str(tmp_path / "b.txt")])
