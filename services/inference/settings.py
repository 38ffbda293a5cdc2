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
    """Which models are used, and how they run."""

    model_config = SettingsConfigDict(env_prefix="AUTOPILOT_", extra="ignore", frozen=True)

    torch_device: str = Field("cpu", description="PyTorch device of the worker; set by the pool")
    torch_threads: int = Field(1, ge=1, description="CPU threads of one worker")
    devices_per_worker: int = Field(1, ge=1, le=64, description="devices that one worker distributes its models over")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="data type of the weights; auto is half precision on GPUs and float32 elsewhere"
    )
    pickled_weights: bool = Field(
        False, description="allow weights that are not safetensors; loading a pickle can run arbitrary code"
    )
    compile_models: bool = Field(
        False, description="run torch.compile on models; worthwhile where they stay loaded for long"
    )
    embed_model: str = Field(
        "all-MiniLM-L6-v2",
        description="folder or hub name; ONNX Runtime runs a folder with model.onnx; the default is included",
    )
    classify_model: str | None = Field(
        None, description="sequence classifier; without one, embeddings are compared with the labels"
    )
    summarize_model: str | None = Field(
        None, description="seq2seq or causal model, folder or hub name; without one, summaries are extractive"
    )
    generate_model: str | None = Field(
        None, description="causal model for generate, chat and extract; without one they are off"
    )
    code_model: str | None = Field(None, description="causal model that explains code and writes tests; optional")
    image_model: str | None = Field(None, description="vision model for classify-image")
    generate_engine: Literal["auto", "transformers", "vllm"] = Field(
        "auto", description="auto is vLLM if it is installed"
    )
    generate_slots: int = Field(16, ge=1, le=1024, description="sequences generated concurrently")
    sandbox: Literal["auto", "bwrap", "off"] = Field(
        "auto", description="sandbox for submitted code and the tools that read it; off or no bubblewrap: not run"
    )
    sandbox_uid: int | None = Field(
        None, ge=1, le=2**32 - 3, description="user id inside the sandbox when root starts it; an unused one by default"
    )

    @property
    def offered(self) -> list[str]:
        """Names of all configured models."""
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
    pool_kinds: list[str] = Field(KINDS, description="job kinds that the pool runs, as a JSON list")
    initial_workers: int = Field(1, ge=0, description="workers before the first scale command")
    external_scaling: bool = Field(
        False, description="an orchestrator scales the pool, so the pool ignores scale commands"
    )
    drain_timeout_s: float = Field(3600.0, gt=0, description="time that a worker being removed has to finish its job")
    stop_timeout_s: float = Field(30.0, gt=0, description="the same when the whole pool stops")
    run_timeout_s: float = Field(
        900.0, ge=1, description="longest run of a batch; then it has failed, and a new worker replaces this one"
    )
    worker_timeout_s: float = Field(
        10.0, ge=2, description="time without a heartbeat after which a worker is killed and replaced"
    )
    unrunnable_after_s: float = Field(60.0, gt=0, description="time after which a job that no pool can run fails")


class WorkerSettings(PoolSettings):
    """One worker process. The pool sets the first fields."""

    worker: str = Field("worker", min_length=1, description="name of this worker")
    journal_fd: int | None = Field(
        None, ge=0, description="file descriptor that reports running jobs to the pool; set by the pool"
    )
    suspect_after_failures: int = Field(
        3,
        ge=0,
        description="consecutive failures after which the worker suspects its device; set by the pool",
    )
    worker_device: str = Field("cpu-0", description="device that the worker uses")
    device_memory_bytes: int | None = Field(None, description="memory of the worker's devices")
    batch_budget_s: float = Field(0.25, gt=0, description="target device time of one batch")
    exclusive_run_s: float = Field(
        2.0, gt=0, description="run time of a batch beyond which other kinds may run beside it"
    )
    preload_kinds: list[str] = Field(
        [], description="kinds whose models are loaded before the worker is ready, as a JSON list"
    )
    model_idle_s: float = Field(
        900.0, gt=0, description="idle time after which a worker with loaded models restarts, freeing all memory"
    )
    scratch_dir: Path | None = Field(None, description="folder for temporary files; the system's by default")
