"""Settings of the scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from accelerator_autopilot.runtime.settings import ServiceSettings


class SchedulerSettings(ServiceSettings):
    """The scheduler."""

    decision_interval_s: float = Field(2.0, ge=0.2, le=60, description="time between decisions")
    policy_name: str = Field("reserve", description="the policy that decides until a replay of the fleet's own days")
    database_url: SecretStr | None = Field(
        None, description="where the recorder writes; none: no replay, the first policy stays"
    )
    policy_evaluation_interval_h: float = Field(6.0, gt=0, description="time between replays of the fleet's last day")
    policy_file: Path | None = Field(None, description="checkpoint of the learned policy; none takes the shipped one")
    fallback_policy: str = Field("queue_lag", description="decides when the champion leaves its predicted band")
    challengers: list[str] = Field(
        ["learned", "queue_lag", "utilisation", "predictive", "energy_sweep"],
        description="propose beside it, for the record; a replay of the fleet's own days may promote one",
    )
    stale_after_s: float = Field(10.0, gt=0, description="pools and frames older than this count as missing")
    cap_lease_s: float = Field(60.0, ge=5, description="a power cap of ours ends after this time unless renewed")

    @property
    def panel(self) -> list[str]:
        """Every policy that sees the pools."""
        return sorted({self.policy_name, self.fallback_policy, *self.challengers})


class ExecutorSettings(ServiceSettings):
    """What carries scale commands out where pools are not processes of a node."""

    orchestrator: Literal["kubernetes", "docker"] = Field("kubernetes", description="where pools run")
    pool_label: str = Field("autopilot.pool", description="label of a Deployment or container; its value is the pool")
    kubernetes_namespace: str = Field("default", description="namespace of the Deployments")
    kubernetes_config: str | None = Field(None, description="kubeconfig; none takes the pod's service account")


class KedaSettings(ServiceSettings):
    """The external scaler that KEDA asks."""

    keda_address: str = Field("0.0.0.0:6000", description="where gRPC listens")
