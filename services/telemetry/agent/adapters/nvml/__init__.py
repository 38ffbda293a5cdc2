"""NVIDIA GPUs through NVML."""

from accelerator_autopilot.telemetry.agent.adapters.nvml.source import NvmlSource

__all__ = ["NvmlSource"]
