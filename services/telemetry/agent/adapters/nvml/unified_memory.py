"""GPUs without memory of their own: NVML does not support the query, and they use the system memory."""

from __future__ import annotations

import psutil

from accelerator_autopilot.telemetry.samples import Sample

# GB10 of DGX Spark and similar, and Jetsons whose NVML answers (gpud issue 1170, nvitop issue 208).
_UNIFIED = ("GB10", "Thor", "Orin", "Spark")


def is_unified(model: str) -> bool:
    """Whether a model uses the system memory."""
    return any(name in model for name in _UNIFIED)


def system_memory() -> Sample:
    """Return the system memory as a GPU's."""
    memory = psutil.virtual_memory()
    return {
        "memory_used_bytes": float(memory.total - memory.available),
        "memory_total_bytes": float(memory.total),
        "memory_free_bytes": float(memory.available),
    }
