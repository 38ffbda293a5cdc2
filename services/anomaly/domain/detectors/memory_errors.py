"""Uncorrected memory errors and row remappings that wait or failed. Counters restart with the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.anomaly.domain.finding import Finding, QuietDetector, Tick
from shared.messages.alerts import Evidence

if TYPE_CHECKING:
    from services.anomaly.domain.detectors import Tuning

ECC_HOLD_S = 300.0
FLAGS = {
    "row_remap_pending": ("warning", "a memory row remapping waits for a reset", "reset the GPU when idle"),
    "row_remap_failure": ("critical", "a memory row remapping failed", "drain, replace the GPU"),
}


class MemoryErrorDetector(QuietDetector):
    """Any growth of the uncorrected error count fires; flags fire while they are set."""

    name = "memory_errors"

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], float] = {}

    def on_tick(self, tick: Tick) -> list[Finding]:
        """Compare counts with the last ones."""
        findings = []
        for device, sample in tick.samples.items():
            simulated = device in tick.simulated
            count = sample.get("ecc_dbe")
            if count is not None:
                before = self._seen.get((tick.node, device), count)
                self._seen[tick.node, device] = count
                evidence = Evidence(metric="ecc_dbe", value=count, expected=f"still {before:g}", at=tick.at)
                findings.append(
                    Finding(
                        tick.node,
                        device,
                        "ecc_uncorrected",
                        count > before,
                        severity="critical",
                        summary=f"{count - before:g} new uncorrected memory errors",
                        evidence=(evidence,),
                        action="drain, reset the GPU",
                        clear_after_s=ECC_HOLD_S,
                        simulated=simulated,
                    )
                )
            for metric, (severity, summary, action) in FLAGS.items():
                if metric in sample:
                    evidence = Evidence(metric=metric, value=sample[metric], expected="0", at=tick.at)
                    findings.append(
                        Finding(
                            tick.node,
                            device,
                            metric,
                            sample[metric] > 0,
                            severity=severity,  # type: ignore[arg-type]
                            summary=summary,
                            action=action,
                            evidence=(evidence,),
                            simulated=simulated,
                        )
                    )
        return findings


def make(_: Tuning) -> MemoryErrorDetector:
    """Build it."""
    return MemoryErrorDetector()
