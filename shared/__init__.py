"""Accelerator Autopilot: one import for programs that use a fleet.

>>> import accelerator_autopilot as ap                                  # doctest: +SKIP
>>> with ap.connect() as fleet:                                         # doctest: +SKIP
...     vectors = fleet.embed(["hello"])

Names are loaded when they are first used: services lie in this package too and load no client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerator_autopilot.client.aio.batch import AsyncBatch
    from accelerator_autopilot.client.aio.client import AsyncClient, connect_async
    from accelerator_autopilot.client.aio.job import AsyncJob
    from accelerator_autopilot.client.batches import BatchView
    from accelerator_autopilot.client.fleet import DeviceView
    from accelerator_autopilot.client.job_views import JobView
    from accelerator_autopilot.client.recent_telemetry import History
    from accelerator_autopilot.client.sync.batch import Batch
    from accelerator_autopilot.client.sync.client import Client, connect
    from accelerator_autopilot.client.sync.job import Job
    from accelerator_autopilot.contracts.dataframe_conversion import Rows
    from accelerator_autopilot.contracts.errors import (
        AutopilotError,
        BusyError,
        ConflictError,
        InvalidInputError,
        JobCancelledError,
        JobFailedError,
        MalformedMessageError,
        NotFoundError,
        SettingsError,
        UnavailableError,
    )
    from accelerator_autopilot.contracts.kinds.analyze_code import AnalyzeCode, AnalyzeCodeResult
    from accelerator_autopilot.contracts.kinds.analyze_logs import AnalyzeLogs, AnalyzeLogsResult
    from accelerator_autopilot.contracts.kinds.base import Payload, Result
    from accelerator_autopilot.contracts.kinds.benchmark import Benchmark, BenchmarkResult
    from accelerator_autopilot.contracts.kinds.chat import Chat, Turn
    from accelerator_autopilot.contracts.kinds.classify import Classify, ClassifyResult
    from accelerator_autopilot.contracts.kinds.classify_image import ClassifyImage, ClassifyImageResult
    from accelerator_autopilot.contracts.kinds.detect_anomalies import DetectAnomalies, DetectAnomaliesResult
    from accelerator_autopilot.contracts.kinds.echo import Echo, EchoResult
    from accelerator_autopilot.contracts.kinds.embed import Embed, EmbedResult
    from accelerator_autopilot.contracts.kinds.extract import Extract, ExtractResult
    from accelerator_autopilot.contracts.kinds.files import File
    from accelerator_autopilot.contracts.kinds.generate import Generate, GenerateResult
    from accelerator_autopilot.contracts.kinds.generate_tests import GenerateTests, GenerateTestsResult
    from accelerator_autopilot.contracts.kinds.summarize import Summarize, SummarizeResult
    from accelerator_autopilot.contracts.messages.alerts import Alert
    from accelerator_autopilot.contracts.messages.commands import CommandOutcome, FleetPolicy, PoolPolicy
    from accelerator_autopilot.contracts.messages.jobs import JobNeeds, JobProgress, JobResult, PoolStatus

    __version__: str

_MODULES = {
    "client.aio.batch": ("AsyncBatch",),
    "client.aio.client": ("AsyncClient", "connect_async"),
    "client.aio.job": ("AsyncJob",),
    "client.batches": ("BatchView",),
    "client.fleet": ("DeviceView",),
    "client.recent_telemetry": ("History",),
    "client.job_views": ("JobView",),
    "client.sync.batch": ("Batch",),
    "client.sync.client": ("Client", "connect"),
    "client.sync.job": ("Job",),
    "contracts.errors": (
        "AutopilotError",
        "BusyError",
        "ConflictError",
        "InvalidInputError",
        "JobCancelledError",
        "JobFailedError",
        "MalformedMessageError",
        "NotFoundError",
        "SettingsError",
        "UnavailableError",
    ),
    "contracts.kinds.analyze_code": ("AnalyzeCode", "AnalyzeCodeResult"),
    "contracts.kinds.analyze_logs": ("AnalyzeLogs", "AnalyzeLogsResult"),
    "contracts.kinds.base": ("Payload", "Result"),
    "contracts.kinds.benchmark": ("Benchmark", "BenchmarkResult"),
    "contracts.kinds.chat": ("Chat", "Turn"),
    "contracts.kinds.classify": ("Classify", "ClassifyResult"),
    "contracts.kinds.classify_image": ("ClassifyImage", "ClassifyImageResult"),
    "contracts.kinds.detect_anomalies": ("DetectAnomalies", "DetectAnomaliesResult"),
    "contracts.kinds.echo": ("Echo", "EchoResult"),
    "contracts.kinds.embed": ("Embed", "EmbedResult"),
    "contracts.kinds.extract": ("Extract", "ExtractResult"),
    "contracts.kinds.files": ("File",),
    "contracts.kinds.generate": ("Generate", "GenerateResult"),
    "contracts.kinds.generate_tests": ("GenerateTests", "GenerateTestsResult"),
    "contracts.kinds.summarize": ("Summarize", "SummarizeResult"),
    "contracts.messages.alerts": ("Alert",),
    "contracts.messages.commands": ("CommandOutcome", "FleetPolicy", "PoolPolicy"),
    "contracts.messages.jobs": ("JobNeeds", "JobProgress", "JobResult", "PoolStatus"),
    "contracts.dataframe_conversion": ("Rows",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Alert",
    "AnalyzeCode",
    "AnalyzeCodeResult",
    "AnalyzeLogs",
    "AnalyzeLogsResult",
    "AsyncBatch",
    "AsyncClient",
    "AsyncJob",
    "AutopilotError",
    "Batch",
    "BatchView",
    "Benchmark",
    "BenchmarkResult",
    "BusyError",
    "Chat",
    "Classify",
    "ClassifyImage",
    "ClassifyImageResult",
    "ClassifyResult",
    "Client",
    "CommandOutcome",
    "ConflictError",
    "DetectAnomalies",
    "DetectAnomaliesResult",
    "DeviceView",
    "Echo",
    "EchoResult",
    "Embed",
    "EmbedResult",
    "Extract",
    "ExtractResult",
    "File",
    "FleetPolicy",
    "Generate",
    "GenerateResult",
    "GenerateTests",
    "GenerateTestsResult",
    "History",
    "InvalidInputError",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "JobNeeds",
    "JobProgress",
    "JobResult",
    "JobView",
    "MalformedMessageError",
    "NotFoundError",
    "Payload",
    "PoolPolicy",
    "PoolStatus",
    "Result",
    "Rows",
    "SettingsError",
    "Summarize",
    "SummarizeResult",
    "Turn",
    "UnavailableError",
    "__version__",
    "connect",
    "connect_async",
]


def __getattr__(name: str) -> Any:
    """Load a public name."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415  a service that starts needs none

        return version("accelerator-autopilot")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What editors complete."""
    return sorted({*globals(), *__all__})
