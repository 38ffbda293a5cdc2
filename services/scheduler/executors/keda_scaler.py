"""KEDA's external scaler: KEDA asks over gRPC how many replicas a pool needs, and does the scaling.

The messages follow KEDA's externalscaler.proto, described here field by field, so that no generated code is checked in.
A ScaledObject names the pool in its metadata: `pool: <name>`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "externalscaler.ExternalScaler"
METRIC = "autopilot-replicas"
_TYPES = {"string": 9, "bool": 8, "int64": 3, "double": 1, "message": 11}
# The fields of each message: name, type, number, and whether it is repeated.
_MESSAGES: dict[str, tuple[tuple[str, str, int, bool], ...]] = {
    "ScaledObjectRef": (
        ("name", "string", 1, False),
        ("namespace", "string", 2, False),
        ("scalerMetadata", "ScaledObjectRef.ScalerMetadataEntry", 3, True),
    ),
    "IsActiveResponse": (("result", "bool", 1, False),),
    "MetricSpec": (
        ("metricName", "string", 1, False), ("targetSize", "int64", 2, False), ("targetSizeFloat", "double", 3, False),
    ),
    "GetMetricSpecResponse": (("metricSpecs", "MetricSpec", 1, True),),
    "GetMetricsRequest": (("scaledObjectRef", "ScaledObjectRef", 1, False), ("metricName", "string", 2, False)),
    "MetricValue": (
        ("metricName", "string", 1, False), ("metricValue", "int64", 2, False),
        ("metricValueFloat", "double", 3, False),
    ),
    "GetMetricsResponse": (("metricValues", "MetricValue", 1, True),),
}  # fmt: skip


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="externalscaler.proto", package="externalscaler", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, kind, number, repeated in fields:
            added = message.field.add(name=field, number=number, label=3 if repeated else 1)
            added.type = _TYPES.get(kind, _TYPES["message"])
            if kind not in _TYPES:
                added.type_name = f".externalscaler.{kind}"
        if name == "ScaledObjectRef":
            entry = message.nested_type.add(name="ScalerMetadataEntry")
            entry.options.map_entry = True
            for number, field in enumerate(("key", "value"), 1):
                entry.field.add(name=field, number=number, label=1, type=_TYPES["string"])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"externalscaler.{name}"))
        for name in _MESSAGES
    }


MESSAGES = _messages()


class ExternalScaler:
    """Answers for every pool with a decision; KEDA keeps the size of an unknown pool."""

    def __init__(self, wanted: Mapping[str, int]) -> None:
        self._wanted = wanted

    def _pool(self, ref: Any) -> str:
        return str(ref.scalerMetadata.get("pool") or ref.name)

    async def is_active(self, ref: Any, context: Any) -> Any:
        """Whether replicas are wanted; False lets KEDA scale to zero."""
        return MESSAGES["IsActiveResponse"](result=await self._known(self._pool(ref), context) > 0)

    async def stream_is_active(self, ref: Any, context: Any) -> AsyncIterator[Any]:
        """Stream that whenever it changes."""
        sent: bool | None = None
        while True:
            active = await self._known(self._pool(ref), context) > 0
            if active != sent:
                sent = active
                yield MESSAGES["IsActiveResponse"](result=active)
            await asyncio.sleep(1.0)

    async def get_metric_spec(self, ref: Any, context: Any) -> Any:  # noqa: ARG002
        """Return a target of one, so that the metric is the number of replicas."""
        spec = MESSAGES["MetricSpec"](metricName=METRIC, targetSize=1, targetSizeFloat=1.0)
        return MESSAGES["GetMetricSpecResponse"](metricSpecs=[spec])

    async def get_metrics(self, request: Any, context: Any) -> Any:
        """Return the replicas that the scheduler wants."""
        wanted = await self._known(self._pool(request.scaledObjectRef), context)
        value = MESSAGES["MetricValue"](metricName=METRIC, metricValue=wanted, metricValueFloat=float(wanted))
        return MESSAGES["GetMetricsResponse"](metricValues=[value])

    async def _known(self, pool: str, context: Any) -> int:
        if pool not in self._wanted:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no decision about pool {pool!r} yet: KEDA keeps its size")
        return self._wanted[pool]


def serve(scaler: ExternalScaler, address: str) -> tuple[grpc.aio.Server, int]:
    """Create a server, and return it with its port."""

    def unary(method: Any, request: str) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            method, MESSAGES[request].FromString, lambda message: message.SerializeToString()
        )

    handlers = {
        "IsActive": unary(scaler.is_active, "ScaledObjectRef"),
        "StreamIsActive": grpc.unary_stream_rpc_method_handler(
            scaler.stream_is_active,
            MESSAGES["ScaledObjectRef"].FromString,
            lambda message: message.SerializeToString(),
        ),
        "GetMetricSpec": unary(scaler.get_metric_spec, "ScaledObjectRef"),
        "GetMetrics": unary(scaler.get_metrics, "GetMetricsRequest"),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    return server, server.add_insecure_port(address)
