"""NVIDIA GPUs through NVML."""

from services.telemetry.adapters.nvml.source import NvmlSource

__all__ = ["NvmlSource"]
