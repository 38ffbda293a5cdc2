"""Kinds that analyse, run as a worker runs them, without a server."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.inference.domain.archives import unpack
from accelerator_autopilot.inference.domain.test_generation import check_module, function_names
from tests.support.kinds import Caller
from tests.support.sandbox import NEEDS_SANDBOX
from tests.support.tiny_models import save_tiny_causal

call = Caller()


def zipped(**files: str) -> str:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "."), text)
    return base64.b64encode(out.getvalue()).decode()


class TestExtract:
    TEXT = (
        "Patient: Ada Lovelace\nDate of admission: 2026-03-04\n\nThe patient reports chest pain since Monday. "
        "Blood pressure was 142 over 91. She takes 75 mg of aspirin daily. Diagnosis: stable angina.\n"
        "Contact: ada@example.org. Smoker: no"
    )
    SCHEMA = {
        "properties": {
            "patient": {"type": "string"},
            "admission": {"type": "string", "format": "date", "description": "date of admission"},
            "aspirin_mg": {"type": "number", "description": "dose of aspirin in mg"},
            "contact": {"type": "string", "format": "email"},
            "smoker": {"type": "boolean"},
            "diagnosis": {"enum": ["stable angina", "myocardial infarction"]},
            "insurance": {"type": "string", "format": "uri"},
        },
        "required": ["patient", "insurance"],
    }

    def test_every_value_stands_where_its_span_says(self) -> None:
        out = call("extract", text=self.TEXT, schema=self.SCHEMA, findings=2)
        values = {name: v.value if v else None for name, v in out.fields.items()}
        assert values == {
            "patient": "Ada Lovelace", "admission": "2026-03-04", "aspirin_mg": 75.0, "contact": "ada@example.org",
            "smoker": False, "diagnosis": "stable angina", "insurance": None,
        }  # fmt: skip
        assert out.missing == ["insurance"]
        for found in filter(None, out.fields.values()):
            assert self.TEXT[found.start : found.end] == found.text
        assert len(out.findings) == 2
        assert all(self.TEXT[f.start : f.end] == f.text for f in out.findings)

    def test_lists_take_all_places(self) -> None:
        schema = {"properties": {"amounts": {"type": "array", "items": {"format": "date"}, "description": "dates"}}}
        out = call("extract", text="Due dates are 2026-01-02 and 2026-02-03.", schema=schema)
        assert [v.value for v in out.fields["amounts"]] == ["2026-01-02", "2026-02-03"]

    def test_a_schema_that_asks_for_the_impossible_is_refused(self) -> None:
        with pytest.raises(Exception, match=r"schema.properties.x.type"):
            call("extract", text="x", schema={"properties": {"x": {"type": "object"}}})


@NEEDS_SANDBOX
class TestAnalyzeCode:
    def test_findings_come_from_every_analyser_with_their_lines(self) -> None:
        python = (
            "import subprocess\nimport torch\nfrom torch.utils.data import DataLoader\n\n"
            "def train(data, model):\n    total = 0\n    for x in DataLoader(data):\n"
            "        loss = model(x.cuda())\n        loss.backward()\n        total += loss.item()\n"
            "    return total\n\n"
            "def run(cmd, seen=[]):\n    return subprocess.call(cmd, shell=True)\n"
        )
        files = [
            {"name": "a/train.py", "text": python},
            {"name": "b.c", "text": "int main(){ char b[8]; gets(b); return 0; }"},
            {"name": "c.js", "text": "function f(x){ return eval(x) }"},
            {"name": "logo.png", "base64": base64.b64encode(b"\x89PNG\0\0").decode()},
        ]
        out = call("analyze-code", files=files)
        found = {(f.file, f.line, f.rule) for f in out.findings}
        assert {
            ("a/train.py", 10, "GPU001"), ("a/train.py", 7, "GPU002"), ("a/train.py", 9, "GPU008"),
            ("a/train.py", 13, "B006"), ("a/train.py", 14, "B602"), ("b.c", 1, "C001"), ("c.js", 1, "JS001"),
        } <= found  # fmt: skip
        assert out.languages == {"python": 1, "c": 1, "javascript": 1}
        assert out.skipped == ["logo.png"]
        assert out.counts["gpu"] >= 3
        assert {f.tool for f in out.findings} >= {"ruff", "bandit", "torch-advice", "tree-sitter"}

    def test_sarif_holds_the_same(self) -> None:
        out = call("analyze-code", code="def f():\n    return undefined_name\n")
        assert out.sarif["version"] == "2.1.0"
        (run,) = [r for r in out.sarif["runs"] if r["tool"]["driver"]["name"] == "ruff"]
        region = run["results"][0]["locations"][0]["physicalLocation"]["region"]
        assert (run["results"][0]["ruleId"], region["startLine"]) == ("F821", 2)
        json.dumps(out.sarif)

    def test_the_language_is_found_out(self) -> None:
        out = call("analyze-code", code="fn main() { let x: u32 = unsafe { std::mem::transmute(1i32) }; }")
        assert out.languages == {"rust": 1}
        assert [f.rule for f in out.findings] == ["RS001"]

    def test_broken_code_has_its_syntax_errors(self) -> None:
        out = call("analyze-code", code="def f(:\n  pass", language="python")
        assert out.counts["syntax"] >= 1

    def test_prose_is_no_code(self) -> None:
        with pytest.raises(Exception, match="is not in a supported language"):
            call("analyze-code", code="Dear all, the meeting is moved to Friday; bring your notes. Regards")

    def test_a_code_model_explains(self, tmp_path: Path) -> None:
        own = Caller(code_model=str(save_tiny_causal(tmp_path)))
        out = own("analyze-code", code="import os\n")
        assert out.explanation is not None


@NEEDS_SANDBOX
class TestGenerateTests:
    CODE = (
        "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)\n\n\n"
        "def shout(text: str) -> str:\n    return text.upper()\n"
    )

    def test_every_test_was_run_and_says_how_it_ended(self) -> None:
        out = call("generate-tests", code=self.CODE)
        assert {t.origin for t in out.tests} == {"property", "edge_case"}
        assert out.passed + out.failed == len(out.tests)
        edge = [t for t in out.tests if t.origin == "edge_case"]
        assert edge
        assert all(t.passed for t in edge), [t.output for t in edge if not t.passed]
        # The ghostwriter's property for `mean` must fall over the empty list, and say so.
        assert any(not t.passed and "ZeroDivisionError" in t.output for t in out.tests if t.origin == "property")
        tried = [c for c in out.edge_cases if (c.function, c.arguments) == ("mean", "([],)")]
        assert tried[0].raises == "ZeroDivisionError"

    def test_code_that_loops_for_ever_is_told(self) -> None:
        with pytest.raises(Exception, match="did not finish in time"):
            call("generate-tests", code="while True:\n    pass\n\ndef f():\n    pass\n", timeout_s=2)

    def test_code_that_cannot_be_imported_says_why(self) -> None:
        with pytest.raises(Exception, match="cannot be imported: ModuleNotFoundError"):
            call("generate-tests", code="import no_such_module\n\ndef f():\n    pass\n")

    @pytest.mark.timeout(180)
    def test_one_endless_or_deadly_function_costs_its_own_tests_alone(self) -> None:
        code = (
            "import os\n\ndef spin(n: int) -> int:\n    while True:\n        n += 1\n\n"
            "def double(n: int) -> int:\n    return 2 * n\n\ndef die(n: int) -> int:\n    os._exit(3)\n"
        )
        out = call("generate-tests", code=code)
        ended = {c.function: c.raises for c in out.edge_cases}
        assert ended == {"spin": "did not end within 2 s", "die": "ended its process", "double": None}
        verdicts = {t.name: (t.passed, t.output) for t in out.tests}
        assert verdicts["test_fuzz_double"][0]
        assert sum("double" in name and passed for name, (passed, _) in verdicts.items()) >= 5
        assert verdicts["test_fuzz_spin"] == (False, "did not end within 15 s")
        assert verdicts["test_fuzz_die"] == (False, "ended the process that ran it")

    @pytest.mark.parametrize("name", ["json", "conftest", "pytest", "test_1", "sitecustomize"])
    def test_a_name_that_the_tests_need_is_refused(self, name: str) -> None:
        with pytest.raises(Exception, match="is reserved for the tests"):
            call("generate-tests", code="def f(x):\n    return x\n", module=name)

    def test_no_python_is_refused(self) -> None:
        with pytest.raises(Exception, match="is not valid Python"):
            call("generate-tests", code="def f(:")


class TestAnalyzeLogs:
    def log(self) -> str:
        lines = [f"2026-01-01T00:{i // 60:02}:{i % 60:02} INFO step {i} loss 0.{i}" for i in range(300)]
        lines[100:100] = ["2026-01-01T00:01:40 kernel: NVRM: Xid (PCI:0000:4b:00): 79, GPU has fallen off the bus."]
        lines += [
            "2026-01-01T00:05:01 ERROR rank 3: CUDA error: unspecified launch failure",
            *[f"2026-01-01T00:05:0{i} ERROR NCCL WARN rank {i}: connection closed by peer" for i in range(2, 9)],
        ]
        return "\n".join(lines)

    def test_the_device_is_to_blame_and_not_what_suffered_from_it(self) -> None:
        out = call("analyze-logs", text=self.log())
        assert out.root_cause.line.line == 101
        assert "Xid" in out.root_cause.line.text
        assert [("CUDA" in e.text, "NCCL" in e.text) for e in out.root_cause.evidence[1:]] == [
            (True, False),
            (False, True),
        ]
        assert out.first_error.line == 101
        assert {"xid", "cuda", "nccl"} <= set(out.gpu)
        steps = next(t for t in out.templates if "step" in t.template)
        assert steps.count == 300

    def test_a_baseline_tells_what_is_new_and_what_is_gone(self) -> None:
        before = "\n".join(
            [*(f"INFO step {i}" for i in range(20)), *(f"INFO heartbeat from node {i}" for i in range(20))]
        )
        out = call(
            "analyze-logs",
            text="\n".join([*(f"INFO step {i}" for i in range(20)), "WARN disk nearly full"]),
            baseline=before,
        )
        assert any("disk" in t for t in out.new_templates)
        assert not any("step" in t for t in out.new_templates)
        assert any("heartbeat" in t for t in out.vanished_templates)

    def test_bursts_are_seen(self) -> None:
        lines = []
        for minute in range(30):
            lines += [f"2026-01-01T00:{minute:02}:{s:02} INFO tick {s}" for s in range(0, 60, 10)]
            if minute == 20:
                lines += [f"2026-01-01T00:20:5{s % 10} WARN retry connection number {s}" for s in range(40)]
        burst = call("analyze-logs", text="\n".join(lines)).bursts[0]
        assert (burst.count, "retry" in burst.template) == (40, True)

    def test_a_healthy_log_has_no_cause(self) -> None:
        out = call(
            "analyze-logs", text="INFO started\nINFO 0 errors found\nINFO error handler installed\nall 0 errors fixed"
        )
        assert (out.errors, out.root_cause, out.first_error) == (0, None, None)

    @pytest.mark.parametrize("data", [b"\x00\x01\x02", b"caf\xe9 latin"])
    def test_what_is_no_text_is_named(self, data: bytes) -> None:
        with pytest.raises(Exception, match=r"x\.log"):
            call("analyze-logs", files=[{"name": "x.log", "base64": base64.b64encode(data).decode()}])


class TestDetectAnomalies:
    def csv(self) -> str:
        rows = ["id,amount,currency,at"]
        rows += [f"{i},{100 + i % 7},{'EUR' if i % 2 else 'USD'},2026-01-{1 + i % 28:02}" for i in range(400)]
        rows[200] = "199,99999,EUR,2026-01-05"
        rows[300] = "299,103,XAU,2026-01-06"
        return "\n".join(rows)

    def test_rows_are_odd_for_a_reason(self) -> None:
        out = call("detect-anomalies", file={"name": "t.csv", "text": self.csv()}, ignore=["id"])
        reasons = {a.row: [(r.column, r.value) for r in a.reasons] for a in out.anomalies}
        assert reasons == {199: [("amount", 99999)], 299: [("currency", "XAU")]}
        assert out.report.by_column == {"amount": 1, "currency": 1}
        assert "| 199 |" in out.report.markdown

    def test_parquet_and_rows_are_read_alike(self) -> None:
        table = pl.read_csv(io.StringIO(self.csv()))
        out = io.BytesIO()
        table.write_parquet(out)
        data = base64.b64encode(out.getvalue()).decode()
        by_file = call("detect-anomalies", file={"name": "t.parquet", "base64": data}, ignore=["id"])
        by_rows = call("detect-anomalies", rows=table.to_dicts(), ignore=["id"])
        assert [a.row for a in by_file.anomalies] == [a.row for a in by_rows.anomalies] == [199, 299]

    @pytest.mark.parametrize("text", ["", "a,b\n1,2", "\x00\x01"])
    def test_no_table_is_refused(self, text: str) -> None:
        with pytest.raises(Exception, match=r"file|rows"):
            call("detect-anomalies", file={"name": "t.csv", "text": text})


class TestBenchmark:
    def test_it_measures_and_draws(self) -> None:
        out = call("benchmark", kind="echo", payload={"text": "x"}, batch_sizes=[1, 4], repeats=3)
        assert [(m.device, m.batch_size) for m in out.measurements] == [("cpu", 1), ("cpu", 4)]
        assert out.measurements[0].speed_up == 1.0
        assert all(m.items_per_s > 0 for m in out.measurements)
        assert out.plot_svg.lstrip().startswith("<?xml")
        assert "| cpu | 4 |" in out.markdown

    def test_it_does_not_benchmark_itself(self) -> None:
        with pytest.raises(Exception, match="kind='benchmark': must be one of"):
            call("benchmark", kind="benchmark", payload={})


class TestArchives:
    def test_a_bomb_ends_the_job_and_not_the_worker(self) -> None:
        with pytest.raises(Exception, match="unpacks to much more than its own size"):
            call("analyze-code", archive=zipped(big__py="0" * 100_000_000))

    @pytest.mark.parametrize("name", ["../../etc/x.py", "/etc/x.py", "a/../../x.py", "C:\\x.py"])
    def test_a_path_that_climbs_out_is_refused(self, name: str) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
        with pytest.raises(Exception, match="leads outside the archive"):
            call("analyze-code", archive=base64.b64encode(out.getvalue()).decode())

    def test_links_are_left_out(self) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            link = tarfile.TarInfo("link.py")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
            data = b"import os\n"
            info = tarfile.TarInfo("a.py")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        assert call("analyze-code", archive=base64.b64encode(out.getvalue()).decode()).languages == {"python": 1}

    @pytest.mark.parametrize("archive", ["not base64!", base64.b64encode(b"PK\x03\x04broken").decode(), ""])
    def test_what_is_no_archive_is_named(self, archive: str) -> None:
        with pytest.raises(Exception, match="archive"):
            call("analyze-code", archive=archive)

    @pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress, bytes])
    def test_a_million_names_cost_neither_time_nor_memory(self, packed: Callable[[bytes], bytes]) -> None:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        data = packed(folder.tobuf() * 60_000 + b"\0" * 1024)
        began = time.process_time()
        with pytest.raises(InvalidInputError, match="more than 10000 members"):
            unpack(data)
        assert time.process_time() - began < 5

    @pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
    def test_a_name_of_a_gigabyte_is_never_held(self, kind: bytes) -> None:
        long = tarfile.TarInfo("././@LongLink")
        long.type, long.size = kind, 2**30
        out = io.BytesIO()
        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as packed:
            packed.write(long.tobuf(tarfile.GNU_FORMAT))
            for _ in range(8):
                packed.write(b"a" * 2**20)
        tracemalloc.start()
        with pytest.raises(InvalidInputError, match="more bytes of names than of files"):
            unpack(out.getvalue())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * 2**20

    def test_a_zip_of_many_empty_entries_is_refused_before_it_is_read(self) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for i in range(10_001):
                archive.writestr(f"d{i}/", "")
        with pytest.raises(InvalidInputError, match="more than 10000 members"):
            unpack(out.getvalue())

    @pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
    @pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
    def test_an_ordinary_archive_is_read_whole(self, mode: str, form: int) -> None:
        wanted = {"a.py": b"x = 1\n", "p/" + "n" * 90 + "/b.py": b"y" * 70_000, "empty.py": b""}
        if form != tarfile.USTAR_FORMAT:
            wanted |= {"long/" + "n" * 300 + ".py": b"z", "caf\u00e9.py": b"u"}
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode, format=form) as archive:  # type: ignore[call-overload]
            for name, data in wanted.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        assert unpack(out.getvalue()) == wanted

    @pytest.mark.parametrize("cut", [100, 600])
    def test_half_an_archive_is_told(self, cut: int) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            info = tarfile.TarInfo("a.py")
            info.size = 5_000
            archive.addfile(info, io.BytesIO(os.urandom(5_000)))
        with pytest.raises(InvalidInputError, match="archive"):
            unpack(out.getvalue()[:-cut] if cut < 600 else out.getvalue()[:cut])


@pytest.mark.parametrize("deep", ["-" * 100_000 + "1", "not " * 50_000 + "1", "x" + "[0]" * 50_000])
def test_code_that_is_nested_too_deeply_is_its_authors_fault_and_no_devices(deep: str) -> None:
    with pytest.raises(InvalidInputError, match="not valid Python"):
        check_module("subject", f"def f():\n    return {deep}\n")
    assert function_names(f"def test_f():\n    return {deep}\n") == []
