"""What an agent remembers of its run before: the boot, loads of drivers, and how far the kernel log was told."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)
_UNREADABLE = (OSError, ValueError, ArithmeticError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass
class AgentState:
    """`kernel_sequence` is the last record of the kernel log that was told, of this boot; -1 for none."""

    boot_id: str = ""
    epochs: dict[str, str] = field(default_factory=dict)
    kernel_sequence: int = -1
    addresses: dict[str, str] = field(default_factory=dict)


class StateFile:
    """JSON, replaced as a whole; one that cannot be read is as good as none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved = ""

    def load(self) -> AgentState:
        """What the run before knew."""
        try:
            body = json.loads(self._path.read_text())
            return AgentState(
                boot_id=str(body["boot_id"]),
                epochs={str(k): str(v) for k, v in body["epochs"].items()},
                kernel_sequence=int(body["kernel_sequence"]),
                addresses={str(k): str(v) for k, v in body["addresses"].items()},
            )
        except FileNotFoundError:
            return AgentState()
        except _UNREADABLE as error:
            log.warning("agent's state is unreadable", extra={"path": str(self._path), "error": str(error)})
            return AgentState()

    def save(self, state: AgentState) -> None:
        """Write it down when it changed; a failure is told and made up for by the next time."""
        text = json.dumps(asdict(state), sort_keys=True)
        if text == self._saved:
            return
        draft = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text)
            draft.replace(self._path)
        except OSError as error:
            log.warning("agent's state not written", extra={"error": str(error)})
        else:
            self._saved = text
