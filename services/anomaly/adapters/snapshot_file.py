"""What was learnt, kept in a file across restarts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True)
class Snapshot:
    """The roster's rows and the learned tensors."""

    roster: list[tuple[str, str, bool]]
    tensors: dict[str, Tensor]


def save(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot in whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    roster = [list(row) for row in snapshot.roster]
    torch.save({"version": VERSION, "roster": roster, "tensors": snapshot.tensors}, fresh)
    fresh.replace(path)


def load(path: Path) -> Snapshot | None:
    """Read a snapshot; None where there is none, or none that can be read: then learning begins anew."""
    if not path.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True)
        if saved["version"] != VERSION:
            log.warning("snapshot of another version, learning anew", extra={"path": str(path)})
            return None
        roster = [(str(n), str(d), bool(s)) for n, d, s in saved["roster"]]
        tensors = {str(name): tensor.float() for name, tensor in saved["tensors"].items()}
        return Snapshot(roster, tensors)
    except Exception as error:  # noqa: BLE001  torch raises a dozen types for damaged files
        log.warning("snapshot cannot be read, learning anew", extra={"path": str(path), "error": str(error)[:200]})
        return None
