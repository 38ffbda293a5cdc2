"""PCI Express and NVLink: replays, errors, and links that run slower or narrower than before."""

from __future__ import annotations

from accelerator_autopilot.anomaly.domain.rules.base import ANY_GROWTH, Growth, Kind, Rule, Simple

REPLAYS_IN_TEN_MINUTES = 20.0
CORRECTABLE_IN_TEN_MINUTES = 100.0
NVLINK_IN_TEN_MINUTES = 10.0
TEN_MINUTES_S = 600.0
DOWN_AFTER_S = 60.0


def make() -> list[Rule]:
    """Create one of each."""
    return [
        Growth(
            Kind(
                "pcie_replays",
                "warning",
                "more than 2 PCIe replays per minute; {pcie_replays:.0f} so far",
                "reseat the card or its riser; check the slot",
                ("pcie_replays", "pcie_replay_rollovers"),
                "a few per day",
                clear_after_s=60.0,
                disturbs=False,
            ),
            ("pcie_replays", "pcie_replay_rollovers"),
            REPLAYS_IN_TEN_MINUTES,
            TEN_MINUTES_S,
        ),
        Growth(
            Kind(
                "pcie_fatal",
                "critical",
                "uncorrected PCIe errors",
                "drain; reboot; reseat the card if the errors return",
                ("pcie_fatal_errors", "pcie_non_fatal_errors"),
                "no growth",
                disturbs=False,
                holds=True,
            ),
            ("pcie_fatal_errors", "pcie_non_fatal_errors"),
            ANY_GROWTH,
            TEN_MINUTES_S,
        ),
        Growth(
            Kind(
                "pcie_errors",
                "warning",
                "more than 10 corrected PCIe errors per minute",
                "reseat the card or its riser; check the slot",
                ("pcie_correctable_errors", "pcie_receiver_errors", "pcie_bad_tlp", "pcie_bad_dllp"),
                "a few per day",
                clear_after_s=60.0,
                disturbs=False,
            ),
            (
                "pcie_correctable_errors",
                "pcie_naks_received",
                "pcie_naks_sent",
                "pcie_receiver_errors",
                "pcie_bad_tlp",
                "pcie_bad_dllp",
                "pcie_lcrc_errors",
                "pcie_lane_errors",
            ),
            CORRECTABLE_IN_TEN_MINUTES,
            TEN_MINUTES_S,
        ),
        Simple(
            Kind(
                "pcie_link_degraded",
                "warning",
                "PCIe generation {pcie_gen:.0f}, width {pcie_width:.0f}: lower than before on this device",
                "reseat the card; check slot and riser",
                ("pcie_gen", "pcie_width"),
                "the highest generation and width seen",
                open_after_s=DOWN_AFTER_S,
                disturbs=False,
            ),
            ("pcie_width",),
            # An idle link lowers its generation to save power, but never its width.
            lambda view: (
                (view.get("pcie_width") < view.highest("pcie_width"))
                | (view.busy & (view.get("pcie_gen") < view.highest("pcie_gen")))
            ),
        ),
        Simple(
            Kind(
                "nvlink_down",
                "critical",
                "{nvlink_active:.0f} NVLinks active, fewer than before",
                "drain; reset the GPU; check the bridge or switch",
                ("nvlink_active",),
                "as many as before",
                open_after_s=5.0,
                disturbs=False,
                holds=True,
            ),
            ("nvlink_active",),
            lambda view: view.get("nvlink_active") < view.highest("nvlink_active"),
        ),
        Growth(
            Kind(
                "nvlink_errors",
                "warning",
                "more than 1 NVLink replay, recovery or CRC error per minute",
                "check the links of this GPU; restart the job",
                ("nvlink_replay_errors", "nvlink_recovery_errors", "nvlink_crc_data_errors", "nvlink_crc_flit_errors"),
                "no growth",
                clear_after_s=60.0,
                disturbs=False,
            ),
            ("nvlink_replay_errors", "nvlink_recovery_errors", "nvlink_crc_data_errors", "nvlink_crc_flit_errors"),
            NVLINK_IN_TEN_MINUTES,
            TEN_MINUTES_S,
        ),
    ]
