"""Load models into a device's memory: precision, attention, compilation, several devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from accelerator_autopilot.inference.errors import ModelLoadError
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.model_cache import one_line

T = TypeVar("T")
TRUSTED: dict[str, Any] = {"trust_remote_code": False}


def place(models: ModelSettings) -> str:
    """Return the device that inputs go to."""
    if models.torch_device == "cpu":
        torch.set_num_threads(models.torch_threads)
    return models.torch_device


def precision(models: ModelSettings) -> torch.dtype:
    """Return the configured precision, or half precision where the device computes in it and float32 elsewhere."""
    if models.dtype != "auto":
        chosen: torch.dtype = getattr(torch, models.dtype)
        return chosen
    if models.torch_device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float16 if models.torch_device == "mps" else torch.float32


def weights(models: ModelSettings) -> dict[str, Any]:
    """Return the `from_pretrained` arguments of every model: no model code, and no pickles unless allowed."""
    return TRUSTED | ({} if models.pickled_weights else {"use_safetensors": True})


def loading(models: ModelSettings) -> dict[str, Any]:
    """Return the same arguments for models that may be large: also the weights' type and how devices share them."""
    spread = {"device_map": "auto"} if models.devices_per_worker > 1 else {}
    return weights(models) | {"dtype": precision(models)} | spread


def load_model(field: str, name: str, load: Callable[[], T], models: ModelSettings | None = None) -> T:
    """Load a model; with `models`, also move it to the device and prepare it for inference.

    Raises ModelLoadError, which names the setting, for a model that cannot be found or read: that is not the job's
    fault.
    """
    try:
        loaded: Any = load()
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
        rule = "is neither a model folder with safetensors nor to be had from a hub"
        if Path(name).is_dir():
            rule = f"is a folder whose model cannot be read: {one_line(error)}"
        raise ModelLoadError(f"{field}={name!r}: {rule}") from error
    if models is not None:
        if models.devices_per_worker == 1:
            loaded = loaded.to(device=models.torch_device, dtype=precision(models))
        loaded = loaded.eval()
        if models.compile_models:
            loaded = torch.compile(loaded, dynamic=True)
    result: T = loaded
    return result
