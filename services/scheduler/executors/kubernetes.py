"""Scale Deployments through their scale subresource; only `replicas` is ever written.

Requires the verbs list on deployments and get and patch on deployments/scale in one namespace.
"""

from __future__ import annotations

from kubernetes_asyncio import client, config
from kubernetes_asyncio.client.exceptions import ApiException

from accelerator_autopilot.scheduler.executors.ports import ExecutorError


class KubernetesExecutor:
    """The Deployment with the label `label=<pool>` in one namespace is the pool."""

    def __init__(self, api: client.ApiClient, namespace: str, label: str) -> None:
        self._api, self._namespace, self._label = api, namespace, label
        self._apps = client.AppsV1Api(api)

    @classmethod
    async def connect(cls, namespace: str, label: str, kubeconfig: str | None) -> KubernetesExecutor:
        """Connect with the pod's service account, or with a kubeconfig. Raises ExecutorError."""
        try:
            if kubeconfig is None:
                config.load_incluster_config()  # type: ignore[no-untyped-call]
            else:
                await config.load_kube_config(config_file=kubeconfig)
        except (config.ConfigException, OSError) as error:
            raise ExecutorError(
                f"kubernetes: no access ({error}): mount a service account or set a kubeconfig"
            ) from error
        return cls(client.ApiClient(), namespace, label)

    async def replicas(self, pool: str) -> int:
        """Return the replicas in the Deployment's spec."""
        name = await self._deployment(pool)
        try:
            scale = await self._apps.read_namespaced_deployment_scale(name, self._namespace)
        except (ApiException, OSError) as error:
            raise self._error(pool, error) from error
        return int(scale.spec.replicas or 0)

    async def scale(self, pool: str, replicas: int) -> int:
        """Patch the scale subresource, so that nothing else of the Deployment is overwritten."""
        name = await self._deployment(pool)
        try:
            scale = await self._apps.patch_namespaced_deployment_scale(
                name, self._namespace, {"spec": {"replicas": replicas}}
            )
        except (ApiException, OSError) as error:
            raise self._error(pool, error) from error
        return int(scale.spec.replicas or 0)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def _deployment(self, pool: str) -> str:
        selector = f"{self._label}={pool}"
        try:
            found = await self._apps.list_namespaced_deployment(self._namespace, label_selector=selector)
        except (ApiException, OSError) as error:
            raise self._error(pool, error) from error
        names = [item.metadata.name for item in found.items]
        if len(names) != 1:
            raise ExecutorError(
                f"kubernetes: {len(names)} Deployments with {selector} in {self._namespace}: exactly one must have it"
            )
        return str(names[0])

    def _error(self, pool: str, error: Exception) -> ExecutorError:
        reason = f"{error.status} {error.reason}" if isinstance(error, ApiException) else f"{type(error).__name__}"
        return ExecutorError(f"kubernetes: pool {pool} in {self._namespace}: {reason}")
