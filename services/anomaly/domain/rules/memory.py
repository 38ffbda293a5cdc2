"""Memory: corrected and uncorrected errors, remapped rows, retired pages.

Actions follow NVIDIA's GPU memory error management guide (docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt).
"""

from __future__ import annotations

from accelerator_autopilot.anomaly.domain.last_values import Bools, View
from accelerator_autopilot.anomaly.domain.rules.base import ANY_GROWTH, Growth, Kind, Rule, Simple
from accelerator_autopilot.contracts.messages.alerts import Severity

UNCORRECTED_HOLD_S = 300.0
CORRECTED_PER_HOUR = 20.0
HOUR_S = 3600.0


def _flag(
    name: str, severity: Severity, summary: str, action: str, expected: str = "0", *, holds: bool = False
) -> Simple:
    """A metric that is zero on a healthy device."""

    def set_(view: View) -> Bools:
        there: Bools = view.get(name) > 0
        return there

    kind = Kind(name, severity, summary, action, (name,), expected, 0.0, 0.0, disturbs=False, holds=holds)
    return Simple(kind, (name,), set_)


def make() -> list[Rule]:
    """Create one of each."""
    return [
        Growth(
            Kind(
                "ecc_uncorrected",
                "critical",
                "new uncorrected memory errors; {ecc_dbe:.0f} since the driver was loaded",
                "drain; reset the GPU",
                ("ecc_dbe", "ecc_dbe_total"),
                "no growth",
                clear_after_s=0.0,
                disturbs=False,
                holds=True,
            ),
            ("ecc_dbe", "ecc_dbe_total"),
            ANY_GROWTH,
            UNCORRECTED_HOLD_S,
        ),
        Growth(
            Kind(
                "ecc_corrected",
                "warning",
                "more than 20 corrected memory errors per hour; {ecc_sbe:.0f} so far",
                "watch it; run diagnostics when idle",
                ("ecc_sbe", "ecc_sbe_total"),
                "a few per day",
                clear_after_s=60.0,
                disturbs=False,
            ),
            ("ecc_sbe", "ecc_sbe_total"),
            CORRECTED_PER_HOUR,
            HOUR_S,
        ),
        Growth(
            Kind(
                "row_remapped",
                "warning",
                "a memory row was remapped; {remapped_rows:.0f} remapped for uncorrected errors so far",
                "reset the GPU when idle",
                ("remapped_rows", "remapped_rows_corrected"),
                "no growth",
                disturbs=False,
            ),
            ("remapped_rows", "remapped_rows_corrected"),
            ANY_GROWTH,
            HOUR_S,
        ),
        Growth(
            Kind(
                "page_retired",
                "warning",
                "a memory page was retired",
                "reset the GPU when idle",
                ("retired_pages_sbe", "retired_pages_dbe"),
                "no growth",
                disturbs=False,
            ),
            ("retired_pages_sbe", "retired_pages_dbe"),
            ANY_GROWTH,
            HOUR_S,
        ),
        _flag(
            "row_remap_pending", "warning", "a memory row remapping is pending until a reset", "reset the GPU when idle"
        ),
        _flag("row_remap_failure", "critical", "a memory row remapping failed", "drain; replace the GPU", holds=True),
        _flag("retired_pages_pending", "warning", "a memory page retirement is pending", "reset the GPU when idle"),
        _flag(
            "recovery_action",
            "critical",
            "the driver requests recovery action {recovery_action:.0f} "
            "(1 reset, 2 reboot, 3 drain peer to peer, 4 drain and reset)",
            "drain; perform the requested action",
            "0, none",
        ),
    ]
