"""Energy that a device or the CPU used between two moments, where its counter can be read."""

from __future__ import annotations

from pathlib import Path

RAPL = Path("/sys/class/powercap")


def energy_j(torch_device: str) -> float | None:
    """Return the device's energy counter; None where there is none or it is not readable."""
    return _gpu_j(int(torch_device.partition(":")[2] or 0)) if torch_device.startswith("cuda") else _cpu_j()


def _gpu_j(index: int) -> float | None:
    try:
        import pynvml  # noqa: PLC0415  an agent's library, here only where there is a GPU
        import torch  # noqa: PLC0415

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    except Exception:  # noqa: BLE001  a report without joules is better than none
        return None


def _cpu_j() -> float | None:
    total, seen = 0.0, False
    for package in RAPL.glob("intel-rapl:[0-9]"):
        try:
            total += int((package / "energy_uj").read_text()) / 1e6
            seen = True
        except (OSError, ValueError):
            continue
    return total if seen else None
