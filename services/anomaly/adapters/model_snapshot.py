"""Keep the learned state in a file across restarts."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accelerator_autopilot.anomaly.adapters.legacy_snapshot import read_torch_file
from accelerator_autopilot.anomaly.domain.learned.snapshot import Snapshot

log = logging.getLogger(__name__)

VERSION = 2
# Besides the arrays: the file's version and the device slots, as JSON.
ABOUT = "about"
EARLIER = ".pt"


def save(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    about = json.dumps({"version": VERSION, "roster": [list(row) for row in snapshot.roster]}).encode()
    with fresh.open("wb") as file:
        arrays: dict[str, Any] = {ABOUT: np.frombuffer(about, np.uint8)} | snapshot.arrays
        np.savez(file, **arrays)
    fresh.replace(path)
    path.with_suffix(EARLIER).unlink(missing_ok=True)


def load(path: Path) -> Snapshot | None:
    """Read a snapshot; None where there is none that can be read: then learning starts over."""
    before = path.with_suffix(EARLIER)
    if not path.exists() and not before.exists():
        return None
    try:
        if not path.exists():
            earlier = read_torch_file(before)
            return Snapshot(_rows(earlier["roster"]), {str(n): _numbers(a) for n, a in earlier["tensors"].items()})
        with np.load(path, allow_pickle=False) as saved:
            about = json.loads(saved[ABOUT].tobytes())
            if about["version"] != VERSION:
                log.warning("snapshot of another version; learning from scratch", extra={"path": str(path)})
                return None
            roster = _rows(about["roster"])
            arrays = {name: _numbers(saved[name]) for name in saved.files if name != ABOUT}
        return Snapshot(roster, arrays)
    except Exception as error:  # noqa: BLE001  numpy and zipfile raise a dozen types for damaged files
        log.warning("snapshot unreadable; learning from scratch", extra={"path": str(path), "error": str(error)[:200]})
        return None


def _rows(roster: Any) -> list[tuple[str, str, bool]]:
    return [(str(n), str(d), bool(s)) for n, d, s in roster]


def _numbers(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim == 0:
        raise ValueError("not an array of numbers")
    return array
