"""Whatever files and fields a job brings, its kind answers, or says that the input is wrong: within bounds."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from contextlib import suppress
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.inference.domain.archives import safe_path, unpack
from accelerator_autopilot.inference.domain.field_extraction import Document, candidates
from accelerator_autopilot.inference.domain.log_lines import badness, pattern_of, timestamp
from accelerator_autopilot.inference.domain.schema_fields import fields_of
from accelerator_autopilot.inference.domain.test_generation import (
    characterization,
    check_module,
    function_names,
    printed_objects,
    verdicts,
)
from accelerator_autopilot.inference.kinds import registry
from accelerator_autopilot.inference.kinds.base import RunContext
from accelerator_autopilot.inference.kinds.classify_image import FORMATS, _opened
from accelerator_autopilot.inference.kinds.files import as_text, decode_base64
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.batch_execution import run_to_json
from accelerator_autopilot.inference.worker.application.scratch_folders import ScratchFolders
from accelerator_autopilot.inference.worker.domain.batch_sizing import BatchSizer
from tests.support.fuzzing import JSON, LINES, at_most, fuzzed, near, near_json

TEXTS = st.one_of(st.text(max_size=200), LINES)
LOG = (
    "2026-01-01T00:00:00Z INFO start\nJan  2 03:04:05 host kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid=1\n"
    "2026-01-01 00:00:02,123 ERROR torch.cuda.OutOfMemoryError: CUDA out of memory\n<3>Feb 30 25:61:61 x: NCCL WARN\n"
) * 3
TABLE = pl.DataFrame(
    {
        "n": [1.5, None, 3.0, 1e308] * 6,
        "t": ["a", "b", None, "c"] * 6,
        "d": [None, *[f"2026-01-{i:02}" for i in range(1, 24)]],
    }
)
SCHEMA = {
    "properties": {
        "name": {"type": "string", "description": "who", "pattern": "[A-Z]\\w+"},
        "mg": {"type": ["number", "null"]},
        "kind": {"enum": ["a", "b"]},
        "days": {"type": "array", "items": {"format": "date"}},
    },
    "required": ["name"],
}
SIMPLE = ("detect-anomalies", "analyze-logs")


def parquet() -> bytes:
    out = io.BytesIO()
    TABLE.with_columns(b=pl.lit(b"\xff\x00"), nested=pl.lit([1, 2])).write_parquet(out)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.py", "x = 1\n" * 50)
        archive.writestr("c.txt", "ü")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a/b.py", "ü" * 120):
            info = tarfile.TarInfo(name)
            info.size = 6
            archive.addfile(info, io.BytesIO(b"x = 1\n"))
    return out.getvalue()


def image(form: str) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((40, 30)).convert("P" if form == "GIF" else "RGB").save(out, form)
    return out.getvalue()


ARCHIVES = [zipped(), tarred(), gzip.compress(tarred(), mtime=0), bz2.compress(tarred()), lzma.compress(tarred())]
IMAGES = {form: image(form) for form in FORMATS}


def answers(kind: str, payload: Any) -> None:
    """The kind gives something that a result can hold, or names what is wrong; it is not tried again."""
    found: Any = registry()[kind]
    try:
        item = found.input.model_validate(payload)
    except (ValidationError, RecursionError):
        return
    with ScratchFolders(None) as scratch:
        context = RunContext(models=ModelSettings(), scratch=scratch, attempts=[1])
        [outcome] = run_to_json(found, [item], context, BatchSizer(largest=1))
    if isinstance(outcome, BaseException):
        assert isinstance(outcome, InvalidInputError), repr(outcome)
    else:
        json.dumps(outcome, allow_nan=False).encode()


@pytest.mark.parametrize("content", [parquet(), TABLE.write_csv().encode()], ids=["parquet", "csv"])
@fuzzed(60)
@given(data=st.data())
def test_tables(content: bytes, data: st.DataObject) -> None:
    spoilt = base64.b64encode(data.draw(near(content))).decode()
    answers("detect-anomalies", {"file": {"name": "t", "base64": spoilt}})


@fuzzed(25)
@given(st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=4), max_size=30))
def test_rows(rows: list[dict[str, Any]]) -> None:
    answers("detect-anomalies", {"rows": rows})


@fuzzed(25)
@given(near(LOG.encode()), st.one_of(st.none(), TEXTS))
def test_logs(log: bytes, baseline: str | None) -> None:
    answers("analyze-logs", {"text": log.decode(errors="replace"), "baseline": baseline})


@fuzzed(150)
@given(TEXTS)
def test_lines_of_logs(line: str) -> None:
    timestamp(line)
    assert badness(line) in {0, 1, 2, 3}
    pattern_of(line)


@pytest.mark.parametrize("archive", ARCHIVES, ids=["zip", "tar", "gz", "bz2", "xz"])
@fuzzed(80)
@given(data=st.data())
def test_archives(archive: bytes, data: st.DataObject) -> None:
    spoilt = data.draw(near(archive))
    with at_most(2.0, mib=64):
        try:
            found = unpack(spoilt)
        except InvalidInputError:
            return
    assert all(safe_path(name) for name in found)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it reads all the same
@pytest.mark.parametrize("form", FORMATS)
@fuzzed(50)
@given(data=st.data())
def test_images(form: str, data: st.DataObject) -> None:
    try:
        _opened("image", data.draw(near(IMAGES[form])))
    except InvalidInputError:
        return


@fuzzed(150)
@given(st.one_of(near_json(SCHEMA), st.dictionaries(st.text(max_size=9), JSON)), TEXTS)
def test_schemas(schema: Any, text: str) -> None:
    if not isinstance(schema, dict):
        return
    try:
        fields = fields_of(schema)
    except InvalidInputError:
        return
    for field in fields:
        for found in candidates(field, Document(text)):
            assert 0 <= found.start <= found.end <= len(text)


@fuzzed(100)
@given(TEXTS, TEXTS)
def test_texts_of_programs(code: str, output: str) -> None:
    with suppress(InvalidInputError):
        check_module("subject", code)
    function_names(code)
    for case in printed_objects(f"CASE {output}\n{output}", "CASE"):
        verdicts([case])
        if all(isinstance(case.get(k), str) for k in ("function", "arguments")) and isinstance(case.get("plain"), bool):
            characterization(case, "subject", 1)


@pytest.mark.parametrize("code", ["-" * 190_000 + "1", "a" + ".b" * 90_000, "not " * 40_000 + "1", "(" * 100_000, "\0"])
def test_programs_that_no_parser_holds(code: str) -> None:
    assert function_names(code) == []
    with pytest.raises(InvalidInputError, match="not valid Python"):
        check_module("subject", code)


@fuzzed(100)
@given(st.one_of(st.binary(max_size=60), near("ü text".encode("utf-16"))), TEXTS)
def test_files_as_text(data: bytes, encoded: str) -> None:
    for read in (lambda: as_text(data, "f"), lambda: decode_base64(encoded, "f")):
        try:
            read()
        except InvalidInputError:
            continue


@pytest.mark.parametrize("kind", sorted(registry()))
@fuzzed(15)
@given(data=st.data())
def test_payloads_of_any_shape(kind: str, data: st.DataObject) -> None:
    """Wrong types in each field that the kind has; those that need no model are run."""
    found: Any = registry()[kind]
    fields = dict.fromkeys(found.input.model_json_schema()["properties"], JSON)
    payload = data.draw(st.one_of(st.fixed_dictionaries({}, optional=fields), JSON))
    if kind in SIMPLE and isinstance(payload, dict):
        answers(kind, payload)
        return
    try:
        found.input.model_validate(payload)
    except (ValidationError, RecursionError):
        return


@pytest.mark.parametrize(
    "payload",
    [
        {"kind": "echo", "payload": {}, "batch_sizes": [2**31]},
        {"kind": "echo", "payload": {}, "batch_sizes": [0]},
        {"kind": "echo", "payload": {}, "batch_sizes": [-1]},
        {"kind": "echo", "payload": {}, "batch_sizes": [1], "devices": ["cuda:99"]},
        {"kind": "echo", "payload": {}, "batch_sizes": [1], "devices": ["cpu"] * 100_000},
    ],
)
def test_a_benchmark_of_nothing_or_of_too_much_is_refused(payload: dict[str, Any]) -> None:
    kind: Any = registry()["benchmark"]
    with ScratchFolders(None) as scratch, pytest.raises((ValidationError, InvalidInputError)):
        context = RunContext(models=ModelSettings(), scratch=scratch, attempts=[1])
        [outcome] = kind.run([kind.input.model_validate(payload)], context)
        raise outcome
