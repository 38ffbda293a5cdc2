"""A method for each built-in job kind."""
# Written by `make docs-generate` from client.aio.kinds: change that instead.

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from accelerator_autopilot.client.submit_options import When
from accelerator_autopilot.client.sync.base import Blocking
from accelerator_autopilot.contracts.kinds.analyze_code import AnalyzeCodeResult
from accelerator_autopilot.contracts.kinds.analyze_logs import AnalyzeLogsResult
from accelerator_autopilot.contracts.kinds.benchmark import BenchmarkResult
from accelerator_autopilot.contracts.kinds.chat import Turn
from accelerator_autopilot.contracts.kinds.classify import ClassifyResult
from accelerator_autopilot.contracts.kinds.classify_image import ClassifyImageResult
from accelerator_autopilot.contracts.kinds.detect_anomalies import DetectAnomaliesResult
from accelerator_autopilot.contracts.kinds.echo import EchoResult
from accelerator_autopilot.contracts.kinds.embed import EmbedResult
from accelerator_autopilot.contracts.kinds.extract import ExtractResult
from accelerator_autopilot.contracts.kinds.files import File
from accelerator_autopilot.contracts.kinds.generate import GenerateResult
from accelerator_autopilot.contracts.kinds.generate_tests import GenerateTestsResult
from accelerator_autopilot.contracts.kinds.summarize import SummarizeResult
from accelerator_autopilot.contracts.messages.jobs import JobNeeds, Priority


# fmt: off
class KindMethods(Blocking):
    """Run a job of a kind and return its result. Options and errors are those of `run`."""

    def analyze_code(
        self, code: str | None = None, *, language: str | None = None, files: Iterable[File] | None = None,
        archive: str | None = None, timeout: float | None = 300.0, priority: Priority = "normal",
        pool: str | None = None, needs: JobNeeds | None = None, deadline: When | None = None,
        time_limit: float | None = None, max_attempts: int = 3, idempotency_key: str | None = None,
    ) -> AnalyzeCodeResult:
        """Code as text, as files, or as an archive in base64.

        `language`: language of `code`; detected by default.
        """
        return self._wait(self._client.analyze_code(
            code, language=language, files=files, archive=archive, timeout=timeout, priority=priority, pool=pool,
            needs=needs, deadline=deadline, time_limit=time_limit, max_attempts=max_attempts,
            idempotency_key=idempotency_key,
        ))

    def analyze_logs(
        self, text: str | None = None, *, files: Iterable[File] | None = None, archive: str | None = None,
        baseline: str | None = None, timeout: float | None = 300.0, priority: Priority = "normal",
        pool: str | None = None, needs: JobNeeds | None = None, deadline: When | None = None,
        time_limit: float | None = None, max_attempts: int = 3, idempotency_key: str | None = None,
    ) -> AnalyzeLogsResult:
        """A log as text, files or an archive in base64, and optionally an earlier log to compare with.

        `baseline`: a log from normal operation.
        """
        return self._wait(self._client.analyze_logs(
            text, files=files, archive=archive, baseline=baseline, timeout=timeout, priority=priority, pool=pool,
            needs=needs, deadline=deadline, time_limit=time_limit, max_attempts=max_attempts,
            idempotency_key=idempotency_key,
        ))

    def benchmark(
        self, kind: str = "embed", *, payload: Mapping[str, Any] | None = None,
        batch_sizes: Iterable[int] | None = None, repeats: int = 5, devices: Iterable[str] | None = None,
        timeout: float | None = 300.0, priority: Priority = "normal", pool: str | None = None,
        needs: JobNeeds | None = None, deadline: When | None = None, time_limit: float | None = None,
        max_attempts: int = 3, idempotency_key: str | None = None,
    ) -> BenchmarkResult:
        """The kind and a payload, which is repeated in batches of each size.

        `devices`: PyTorch device names; by default the CPU and every GPU of the worker.
        """
        return self._wait(self._client.benchmark(
            kind, payload=payload, batch_sizes=batch_sizes, repeats=repeats, devices=devices, timeout=timeout,
            priority=priority, pool=pool, needs=needs, deadline=deadline, time_limit=time_limit,
            max_attempts=max_attempts, idempotency_key=idempotency_key,
        ))

    def chat(
        self, messages: Iterable[Turn], *, model: str | None = None, max_tokens: int = 256,
        temperature: float = 0.0, top_p: float = 1.0, stop: Iterable[str] | None = None,
        timeout: float | None = 300.0, priority: Priority = "normal", pool: str | None = None,
        needs: JobNeeds | None = None, deadline: When | None = None, time_limit: float | None = None,
        max_attempts: int = 3, idempotency_key: str | None = None,
    ) -> GenerateResult:
        """A conversation so far.

        `model`: a configured model; the first one by default.
        """
        return self._wait(self._client.chat(
            messages, model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p, stop=stop,
            timeout=timeout, priority=priority, pool=pool, needs=needs, deadline=deadline, time_limit=time_limit,
            max_attempts=max_attempts, idempotency_key=idempotency_key,
        ))

    def classify(
        self, texts: Iterable[str], *, labels: Iterable[str] | Mapping[str, str] | None = None,
        multi_label: bool = False, timeout: float | None = 300.0, priority: Priority = "normal",
        pool: str | None = None, needs: JobNeeds | None = None, deadline: When | None = None,
        time_limit: float | None = None, max_attempts: int = 3, idempotency_key: str | None = None,
    ) -> ClassifyResult:
        """Texts and the labels to choose from: a list of names, or names with descriptions.

        `labels`: the model's own by default. `multi_label`: score each label independently of the others.
        """
        return self._wait(self._client.classify(
            texts, labels=labels, multi_label=multi_label, timeout=timeout, priority=priority, pool=pool, needs=needs,
            deadline=deadline, time_limit=time_limit, max_attempts=max_attempts, idempotency_key=idempotency_key,
        ))

    def classify_image(
        self, files: Iterable[File] | None = None, *, archive: str | None = None, top: int = 5,
        timeout: float | None = 300.0, priority: Priority = "normal", pool: str | None = None,
        needs: JobNeeds | None = None, deadline: When | None = None, time_limit: float | None = None,
        max_attempts: int = 3, idempotency_key: str | None = None,
    ) -> ClassifyImageResult:
        """Images as files, or an archive of them in base64."""
        return self._wait(self._client.classify_image(
            files, archive=archive, top=top, timeout=timeout, priority=priority, pool=pool, needs=needs,
            deadline=deadline, time_limit=time_limit, max_attempts=max_attempts, idempotency_key=idempotency_key,
        ))

    def detect_anomalies(
        self, file: File | None = None, *, rows: Iterable[dict[str, Any]] | None = None,
        ignore: Iterable[str] | None = None, most: int = 100, timeout: float | None = 300.0,
        priority: Priority = "normal", pool: str | None = None, needs: JobNeeds | None = None,
        deadline: When | None = None, time_limit: float | None = None, max_attempts: int = 3,
        idempotency_key: str | None = None,
    ) -> DetectAnomaliesResult:
        """A CSV or Parquet file, or rows as JSON objects.

        `ignore`: columns to ignore, such as identifiers. `most`: most rows to report.
        """
        return self._wait(self._client.detect_anomalies(
            file, rows=rows, ignore=ignore, most=most, timeout=timeout, priority=priority, pool=pool, needs=needs,
            deadline=deadline, time_limit=time_limit, max_attempts=max_attempts, idempotency_key=idempotency_key,
        ))

    def echo(
        self, text: str = "", *, work_s: float = 0.0,
        fail: Literal["never", "first_attempt", "always", "permanently"] = "never", timeout: float | None = 300.0,
        priority: Priority = "normal", pool: str | None = None, needs: JobNeeds | None = None,
        deadline: When | None = None, time_limit: float | None = None, max_attempts: int = 3,
        idempotency_key: str | None = None,
    ) -> EchoResult:
        """The text to return, how long to work on it, and a failure to simulate.

        `work_s`: seconds of work.
        """
        return self._wait(self._client.echo(
            text, work_s=work_s, fail=fail, timeout=timeout, priority=priority, pool=pool, needs=needs,
            deadline=deadline, time_limit=time_limit, max_attempts=max_attempts, idempotency_key=idempotency_key,
        ))

    def embed(
        self, texts: Iterable[str], *, model: str | None = None, timeout: float | None = 300.0,
        priority: Priority = "normal", pool: str | None = None, needs: JobNeeds | None = None,
        deadline: When | None = None, time_limit: float | None = None, max_attempts: int = 3,
        idempotency_key: str | None = None,
    ) -> EmbedResult:
        """Texts to embed; each is truncated to the model's context length.

        `model`: must be the configured model, if given.
        """
        return self._wait(self._client.embed(
            texts, model=model, timeout=timeout, priority=priority, pool=pool, needs=needs, deadline=deadline,
            time_limit=time_limit, max_attempts=max_attempts, idempotency_key=idempotency_key,
        ))

    def extract(
        self, text: str, *, schema: Mapping[str, Any] | None = None, findings: int = 5,
        timeout: float | None = 300.0, priority: Priority = "normal", pool: str | None = None,
        needs: JobNeeds | None = None, deadline: When | None = None, time_limit: float | None = None,
        max_attempts: int = 3, idempotency_key: str | None = None,
    ) -> ExtractResult:
        """A text, and what to extract from it.

        `schema`: JSON schema with properties. `findings`: key sentences to return.
        """
        return self._wait(self._client.extract(
            text, schema=schema, findings=findings, timeout=timeout, priority=priority, pool=pool, needs=needs,
            deadline=deadline, time_limit=time_limit, max_attempts=max_attempts, idempotency_key=idempotency_key,
        ))

    def generate(
        self, prompt: str, *, model: str | None = None, max_tokens: int = 256, temperature: float = 0.0,
        top_p: float = 1.0, stop: Iterable[str] | None = None, timeout: float | None = 300.0,
        priority: Priority = "normal", pool: str | None = None, needs: JobNeeds | None = None,
        deadline: When | None = None, time_limit: float | None = None, max_attempts: int = 3,
        idempotency_key: str | None = None,
    ) -> GenerateResult:
        """A prompt to continue.

        `model`: a configured model; the first one by default.
        """
        return self._wait(self._client.generate(
            prompt, model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p, stop=stop,
            timeout=timeout, priority=priority, pool=pool, needs=needs, deadline=deadline, time_limit=time_limit,
            max_attempts=max_attempts, idempotency_key=idempotency_key,
        ))

    def generate_tests(
        self, code: str, *, module: str = "subject", timeout_s: float = 60.0, most_edge_cases: int = 40,
        timeout: float | None = 300.0, priority: Priority = "normal", pool: str | None = None,
        needs: JobNeeds | None = None, deadline: When | None = None, time_limit: float | None = None,
        max_attempts: int = 3, idempotency_key: str | None = None,
    ) -> GenerateTestsResult:
        """A Python module, and the time that all its tests together may take (seconds)."""
        return self._wait(self._client.generate_tests(
            code, module=module, timeout_s=timeout_s, most_edge_cases=most_edge_cases, timeout=timeout,
            priority=priority, pool=pool, needs=needs, deadline=deadline, time_limit=time_limit,
            max_attempts=max_attempts, idempotency_key=idempotency_key,
        ))

    def summarize(
        self, text: str, *, max_sentences: int = 5, timeout: float | None = 300.0, priority: Priority = "normal",
        pool: str | None = None, needs: JobNeeds | None = None, deadline: When | None = None,
        time_limit: float | None = None, max_attempts: int = 3, idempotency_key: str | None = None,
    ) -> SummarizeResult:
        """A text, and the most sentences to keep."""
        return self._wait(self._client.summarize(
            text, max_sentences=max_sentences, timeout=timeout, priority=priority, pool=pool, needs=needs,
            deadline=deadline, time_limit=time_limit, max_attempts=max_attempts, idempotency_key=idempotency_key,
        ))
