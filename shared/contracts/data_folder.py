"""The data folder of the product on one machine, where servers write and clients look."""

from __future__ import annotations

from pathlib import Path

DEFAULT_DATA_DIR = Path.home() / ".local" / "share" / "accelerator-autopilot"
RUNTIME_FILE = "runtime.json"  # tells clients how to reach the product; only its owner may read it
