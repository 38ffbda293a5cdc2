"""Settings of pools and their workers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from accelerator_autopilot.runtime.settings import ServiceSettings

KINDS = [
    "echo",
    "embed",
    "summarize",
    "classify",
    "extract",
    "generate",
    "chat",
    "analyze-code",
    "generate-tests",
    "analyze-logs",
    "detect-anomalies",
    "classify-image",
    "benchmark",
]


class ModelSettings(BaseSettings):
    """Which models run, how and on what."""

    model_config = SettingsConfigDict(env_prefix="AUTOPILOT_", extra="ignore", frozen=True)

    torch_device: str = Field("cpu", description="torch's name of the worker's device; the pool sets it")
    torch_threads: int = Field(1, ge=1, description="threads of one worker on a CPU")
    devices_per_worker: int = Field(1, ge=1, le=64, description="devices that one worker spreads its models over")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of weights; auto takes half precision on GPUs and float32 elsewhere"
    )
    pickled_weights: bool = Field(
        False, description="load weights that are no safetensors; a pickle can run code when it is read"
    )
    compile_models: bool = Field(False, description="torch.compile models; pays where they stay loaded for long")
    embed_model: str = Field(
        "all-MiniLM-L6-v2", description="folder or hub name, with model.onnx for ONNX Runtime; the default is on disk"
    )
    classify_model: str | None = Field(None, description="sequence classifier; none compares embeddings with labels")
    summarize_model: str | None = Field(
        None, description="folder or hub name of a seq2seq or causal model; none summarises by extraction"
    )
    generate_model: str | None = Field(
        None, description="causal model of generate, chat and extract; none switches off"
    )
    code_model: str | None = Field(None, description="causal model that explains code and writes tests")
    image_model: str | None = Field(None, description="vision model of classify-image")
    generate_engine: Literal["auto", "transformers", "vllm"] = Field("auto", description="auto takes vLLM if installed")
    generate_slots: int = Field(16, ge=1, le=1024, description="sequences generated at once")
    sandbox: Literal["auto", "bwrap", "off"] = Field(
        "auto", description="what shuts in code of jobs and tools on it; without bubblewrap, or off, they are not run"
    )
    sandbox_uid: int | None = Field(
        None, ge=1, le=2**32 - 3, description="user id of the sandbox where root starts it; by default one nobody has"
    )

    @property
    def offered(self) -> list[str]:
        """Every model that is configured."""
        names = (
            self.embed_model,
            self.classify_model,
            self.summarize_model,
            self.generate_model,
            self.code_model,
            self.image_model,
        )
        return sorted({name for name in names if name})


class PoolSettings(ServiceSettings, ModelSettings):
    """A pool of workers on one node."""

    pool: str = Field("default", pattern="^[A-Za-z0-9_-]+$", description="name of the pool")
    pool_kinds: list[str] = Field(KINDS, description="job kinds that it runs, as JSON")
    initial_workers: int = Field(1, ge=0, description="workers before the first scale command")
    external_scaling: bool = Field(False, description="an orchestrator scales the pool: scale commands are left to it")
    drain_timeout_s: float = Field(3600.0, gt=0, description="a worker that is to go may finish its job for this long")
    stop_timeout_s: float = Field(30.0, gt=0, description="the same where the whole pool stops")
    run_timeout_s: float = Field(
        900.0, ge=1, description="a batch that runs for longer has failed; the worker ends itself and a new one starts"
    )
    worker_timeout_s: float = Field(
        10.0, ge=2, description="a worker that says nothing for this long is killed and replaced"
    )
    unrunnable_after_s: float = Field(60.0, gt=0, description="a job that no pool runs is given up after this time")


class WorkerSettings(PoolSettings):
    """One worker process; the pool sets the first ones."""

    worker: str = Field("worker", min_length=1, description="name of this worker")
    journal_fd: int | None = Field(None, ge=0, description="file that tells the pool what runs; the pool sets it")
    suspect_after_failures: int = Field(
        3,
        ge=0,
        description="failures in a row that make it suspect its device; the pool sets it",
    )
    worker_device: str = Field("cpu-0", description="device that it works for")
    device_memory_bytes: int | None = Field(None, description="memory of its devices")
    batch_budget_s: float = Field(0.25, gt=0, description="time on the device that a batch may take")
    exclusive_run_s: float = Field(2.0, gt=0, description="a batch that runs for longer lets other kinds run beside it")
    preload_kinds: list[str] = Field(
        [], description="kinds whose models are loaded before the worker is ready, as JSON"
    )
    model_idle_s: float = Field(
        900.0, gt=0, description="a worker with idle models begins anew after this time, which frees all memory"
    )
    scratch_dir: Path | None = Field(None, description="folder for temporary files; the system's own by default")
