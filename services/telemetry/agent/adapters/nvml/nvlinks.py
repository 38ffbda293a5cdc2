"""NVLink, link by link: state, speed, peer, errors, bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pynvml

from accelerator_autopilot.contracts.messages.telemetry import LinkInfo
from accelerator_autopilot.telemetry.agent.adapters.nvml.call_wrapper import text
from accelerator_autopilot.telemetry.agent.adapters.nvml.readings import number

ERRORS: dict[str, int] = {
    "nvlink_replay_errors": pynvml.NVML_NVLINK_ERROR_DL_REPLAY,
    "nvlink_recovery_errors": pynvml.NVML_NVLINK_ERROR_DL_RECOVERY,
    "nvlink_crc_flit_errors": pynvml.NVML_NVLINK_ERROR_DL_CRC_FLIT,
    "nvlink_crc_data_errors": pynvml.NVML_NVLINK_ERROR_DL_CRC_DATA,
}
BYTES: dict[str, int] = {
    "nvlink_tx_bytes": pynvml.NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES,
    "nvlink_rx_bytes": pynvml.NVML_FI_DEV_NVLINK_COUNT_RCV_BYTES,
}


def link_numbers(handle: Any) -> list[int]:
    """Return the links that the device has, up or down. Raises NVMLError where it has none."""
    count = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT])[0]
    if count.nvmlReturn == pynvml.NVML_SUCCESS:
        return list(range(int(number(count.valueType, count.value))))
    found = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        with suppress(pynvml.NVMLError):
            pynvml.nvmlDeviceGetNvLinkState(handle, link)
            found.append(link)
    return found


def read_totals(handle: Any, links: list[int]) -> dict[str, float]:
    """Return errors and bytes, summed over all links that report them."""
    values: dict[str, float] = {}
    for metric, counter in ERRORS.items():
        for link in links:
            with suppress(pynvml.NVMLError):
                count = pynvml.nvmlDeviceGetNvLinkErrorCounter(handle, link, counter)
                values[metric] = values.get(metric, 0.0) + float(count)
    for metric, field_id in BYTES.items():
        for answer in pynvml.nvmlDeviceGetFieldValues(handle, [(field_id, link) for link in links]):
            if answer.nvmlReturn == pynvml.NVML_SUCCESS:
                values[metric] = values.get(metric, 0.0) + number(answer.valueType, answer.value)
    return values


def describe(handle: Any, links: list[int]) -> list[LinkInfo]:
    """Return each link's state, for the inventory."""
    speeds = pynvml.nvmlDeviceGetFieldValues(handle, [(pynvml.NVML_FI_DEV_NVLINK_GET_SPEED, link) for link in links])
    found = []
    for link, speed in zip(links, speeds, strict=True):
        active, remote, errors = False, "", 0
        with suppress(pynvml.NVMLError):
            active = bool(pynvml.nvmlDeviceGetNvLinkState(handle, link))
        with suppress(pynvml.NVMLError):
            remote = text(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link).busId)
        for counter in ERRORS.values():
            with suppress(pynvml.NVMLError):
                errors += int(pynvml.nvmlDeviceGetNvLinkErrorCounter(handle, link, counter))
        known = speed.nvmlReturn == pynvml.NVML_SUCCESS
        found.append(
            LinkInfo(
                link=link,
                active=active,
                speed_mbps=number(speed.valueType, speed.value) if known else None,
                remote=remote,
                errors=errors,
            )
        )
    return found
