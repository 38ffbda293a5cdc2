"""The exported network: a small multilayer perceptron, run without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.scheduler.domain.npz_files import load_arrays
from accelerator_autopilot.scheduler.policies.action_mapping import OUTPUTS
from accelerator_autopilot.scheduler.policies.network_features import FEATURES, Floats

VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A trained policy: layers of weights [out, in] and biases [out], and its model card."""

    layers: list[tuple[Floats, Floats]]
    card: dict[str, Any]

    def output(self, features: Floats) -> Floats:
        """Map [P, F] to [P, O]; tanh between the layers."""
        x = features
        for i, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            if i < len(self.layers) - 1:
                x = np.tanh(x)
        return x

    def save(self, path: Path) -> None:
        """Save it, with the version that it was trained for."""
        arrays: dict[str, NDArray[Any]] = {}
        for i, (weight, bias) in enumerate(self.layers):
            arrays[f"weight_{i}"], arrays[f"bias_{i}"] = weight.astype(np.float32), bias.astype(np.float32)
        header = {
            "version": VERSION,
            "features": list(FEATURES),
            "outputs": list(OUTPUTS),
            "layers": len(self.layers),
            "card": self.card,
        }
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        np.savez_compressed(path, allow_pickle=False, **arrays)


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint. Raises SettingsError for a damaged one, or one for another version of the policy."""
    try:
        arrays = load_arrays(path.read_bytes())
        header = json.loads(bytes(arrays["header"]).decode())
        _check(path, header)
        layers = [(arrays[f"weight_{i}"], arrays[f"bias_{i}"]) for i in range(header["layers"])]
        checkpoint = Checkpoint(layers, dict(header["card"]))
        checkpoint.output(np.zeros((1, len(FEATURES)), np.float32))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise SettingsError(
            f"policy file {path}: cannot be read ({type(error).__name__}): train or copy it again"
        ) from error
    if any(not np.isfinite(part).all() for layer in checkpoint.layers for part in layer):
        raise SettingsError(f"policy file {path}: contains numbers that are not finite: train or copy it again")
    return checkpoint


def _check(path: Path, header: dict[str, Any]) -> None:
    made_for = {"version": VERSION, "features": list(FEATURES), "outputs": list(OUTPUTS)}
    for name, wanted in made_for.items():
        if header.get(name) != wanted:
            raise SettingsError(f"policy file {path}: {name} belongs to another version of Autopilot: train it again")
