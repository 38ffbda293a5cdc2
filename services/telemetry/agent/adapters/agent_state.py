"""What an agent keeps between runs: the boot, driver loads, and the last kernel log record it reported."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)
_UNREADABLE = (OSError, ValueError, ArithmeticError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass
class AgentState:
    """`kernel_sequence` is the last kernel log record reported in this boot; -1 for none."""

    boot_id: str = ""
    epochs: dict[str, str] = field(default_factory=dict)
    kernel_sequence: int = -1
    addresses: dict[str, str] = field(default_factory=dict)


class StateFile:
    """A JSON file, replaced atomically; an unreadable file counts as missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved = ""

    def load(self) -> AgentState:
        """Return the state of the previous run."""
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
        """Write the state when it changed; a failure is logged and retried next time."""
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
