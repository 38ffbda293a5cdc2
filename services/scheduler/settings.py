"""Settings of the scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from accelerator_autopilot.runtime.settings import ServiceSettings


class SchedulerSettings(ServiceSettings):
    """The scheduler."""

    decision_interval_s: float = Field(2.0, ge=0.2, le=60, description="time between decisions")
    policy_name: str = Field("reserve", description="scaling policy in use until the first policy evaluation")
    database_url: SecretStr | None = Field(
        None, description="the recorder's database; without it policies are not evaluated and never change"
    )
    policy_evaluation_interval_h: float = Field(
        6.0, gt=0, description="hours between evaluations of the policies on the fleet's last day"
    )
    policy_file: Path | None = Field(None, description="checkpoint of the learned policy; the included one by default")
    fallback_policy: str = Field("queue_lag", description="policy used while the active one misses its predictions")
    challengers: list[str] = Field(
        ["learned", "queue_lag", "utilisation", "predictive", "energy_sweep"],
        description="policies that run in shadow mode and are recorded; an evaluation may promote one",
    )
    stale_after_s: float = Field(10.0, gt=0, description="age at which pool states and frames count as missing")
    cap_lease_s: float = Field(60.0, ge=5, description="time after which a power cap expires unless renewed")

    @property
    def policy_names(self) -> list[str]:
        """Names of all policies that run, active or in shadow mode."""
        return sorted({self.policy_name, self.fallback_policy, *self.challengers})


class ExecutorSettings(ServiceSettings):
    """Applies scale commands where an orchestrator runs the pools."""

    orchestrator: Literal["kubernetes", "docker"] = Field("kubernetes", description="where pools run")
    pool_label: str = Field("autopilot.pool", description="label on a Deployment or container that names its pool")
    kubernetes_namespace: str = Field("default", description="namespace of the Deployments")
    kubernetes_config: str | None = Field(
        None, description="path of a kubeconfig; the pod's service account by default"
    )


class KedaSettings(ServiceSettings):
    """The external scaler for KEDA."""

    keda_address: str = Field("0.0.0.0:6000", description="address that the gRPC server listens on")
