"""Settings of pools and their workers."""

from __future__ import annotations

from pydantic import Field

from shared.settings import ServiceSettings


class PoolSettings(ServiceSettings):
    """A pool of workers on one node."""

    pool: str = Field("default", pattern="^[A-Za-z0-9_-]+$", description="name of the pool")
    pool_kinds: list[str] = Field(["echo", "embed", "summarize"], description="job kinds that it runs, as JSON")
    pool_initial: int = Field(1, ge=0, description="workers before the first scale command")
    drain_timeout_s: float = Field(30.0, gt=0, description="a draining worker is killed after this time")


class WorkerSettings(PoolSettings):
    """One worker process; the pool sets the first three."""

    worker: str = Field("worker", min_length=1, description="name of this worker")
    worker_device: str = Field("cpu-0", description="device that it works for")
    torch_device: str = Field("cpu", description="torch's name of that device")
    torch_threads: int = Field(1, ge=1, description="threads of one worker on a CPU")
    embed_model: str = Field("all-MiniLM-L6-v2", description="folder or hub name; the default is on disk")
    summarize_model: str | None = Field(
        None, description="folder or hub name of a seq2seq or causal model; none summarises by extraction"
    )
