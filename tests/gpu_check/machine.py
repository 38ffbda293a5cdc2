"""What machine the check ran on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("torch", "transformers", "nvidia-ml-py", "faststream", "nats-py", "pydantic", "asyncpg", "numpy")
QUERY = "name,driver_version,power.draw,temperature.gpu,memory.used,clocks.sm,pstate,persistence_mode,mig.mode.current"


def facts() -> dict[str, Any]:
    """Versions and what nvidia-smi says; no serial number, no UUID."""
    found: dict[str, Any] = {
        "python": platform.python_version(), "kernel": platform.release(), "machine": platform.machine(),
        "cores": os.cpu_count(), "uid": os.geteuid(), "packages": {}, "nvidia_smi": None,
    }  # fmt: skip
    for name in PACKAGES:
        try:
            found["packages"][name] = version(name)
        except PackageNotFoundError:
            found["packages"][name] = None
    tool = shutil.which("nvidia-smi")
    if tool:
        asked = subprocess.run(
            [tool, f"--query-gpu={QUERY}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        found["nvidia_smi"] = dict(zip(QUERY.split(","), asked.stdout.strip().split(", "), strict=False))
    return found
