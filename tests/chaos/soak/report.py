"""What a soak found: a table of recoveries, violations with their evidence, and one JSON line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.chaos.soak.recovery import Healed

SHOWN = 20


@dataclass
class Report:
    """The figures, and every violation by invariant."""

    figures: dict[str, Any] = field(default_factory=dict)
    healed: Sequence[Healed] = ()
    violations: dict[str, list[str]] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether any invariant was broken."""
        return any(self.violations.values())

    def table(self) -> str:
        """Seconds to recovery by target and kind of fault; a dash where none came; in brackets when readiness told."""
        kinds = list(dict.fromkeys(h.fault.kind for h in self.healed))
        lines = ["| target | " + " | ".join(kinds) + " |", "| --- " * (len(kinds) + 1) + "|"]
        for target in sorted({h.fault.target for h in self.healed}):
            cells = []
            for kind in kinds:
                of = [h for h in self.healed if (h.fault.target, h.fault.kind) == (target, kind)]
                cells.append(", ".join(_seconds(h) for h in of))
            lines.append(f"| {target} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def lines(self) -> list[str]:
        """Broken invariants with their evidence."""
        told = []
        for invariant, found in self.violations.items():
            told += [f"{invariant}: {text}" for text in found[:SHOWN]]
            told += [f"{invariant}: and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        return told

    def json(self) -> str:
        """All of it in one line."""
        times = [h.recovered_s for h in self.healed if h.recovered_s is not None]
        recovery = {"median_s": round(median(times), 1), "max_s": max(times)} if times else {}
        faults = [
            {
                "kind": h.fault.kind, "target": h.fault.target, "at": h.at, "held_s": h.fault.hold_s,
                "noticed_s": h.noticed_s, "recovered_s": h.recovered_s,
            }
            for h in self.healed
        ]  # fmt: skip
        counts = {invariant: len(found) for invariant, found in self.violations.items()}
        return json.dumps(
            {"name": "soak", "passed": not self.failed, "faults": len(faults), "recovery": recovery}
            | self.figures
            | {"violations": counts, "each_fault": faults}
        )


def _seconds(healed: Healed) -> str:
    noticed = f" ({healed.noticed_s:g})" if healed.noticed_s is not None else ""
    return (f"{healed.recovered_s:g}" if healed.recovered_s is not None else "-") + noticed
