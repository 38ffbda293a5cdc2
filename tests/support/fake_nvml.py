"""A driver in memory: it answers what it is told to and counts what it is asked."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

UUID = "GPU-1"


class FakeNvml:
    """`answers` maps a call's name to its value or to a function of its arguments; what is missing is not supported."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.error: int | None = None
        self.limit_mw = 250_000
        self.events: list[tuple[int, int]] = []
        self.fields: dict[int, float] = {}
        self.locked: tuple[int, int] | None = None
        self.answers: dict[str, Any] = {
            "nvmlInit": None, "nvmlDeviceGetCount": 1, "nvmlDeviceGetHandleByIndex": "h",
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid if str(uuid).startswith("MIG") else "h",
            "nvmlDeviceGetUUID": lambda handle: b"GPU-1" if handle == "h" else handle.encode(),
            "nvmlDeviceGetName": "Test GPU", "nvmlSystemGetDriverVersion": "600.1",
            "nvmlDeviceGetPowerUsage": 123_400, "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetPowerManagementLimitConstraints": [100_000, 300_000],
            "nvmlDeviceGetPowerManagementDefaultLimit": 250_000,
            "nvmlDeviceGetPowerManagementLimit": lambda _: self.limit_mw,
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: self.limit_mw,
            "nvmlDeviceSetPowerManagementLimit": self._set_limit,
            "nvmlDeviceGetMaxClockInfo": 1980, "nvmlDeviceGetSupportedGraphicsClocks": [1980, 1000, 345],
            "nvmlDeviceSetGpuLockedClocks": lambda _, low, high: setattr(self, "locked", (low, high)),
            "nvmlDeviceResetGpuLockedClocks": lambda _: setattr(self, "locked", None),
            "nvmlDeviceGetFieldValues": self._field_values, "nvmlDeviceGetSupportedEventTypes": 0x8 | 0x8000,
            "nvmlEventSetCreate": "set", "nvmlEventSetFree": None, "nvmlDeviceRegisterEvents": None,
            "nvmlEventSetWait_v2": self._next_event,
            "nvmlDeviceGetPciInfo": SimpleNamespace(busId=b"00000000:3B:00.0"),
        }  # fmt: skip

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [n for n in dir(pynvml) if n.startswith("nvml") and callable(getattr(pynvml, n))]:
            monkeypatch.setattr(pynvml, name, self._call(name))

    def _call(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            if self.error is not None and name.startswith("nvmlDeviceGet"):
                raise pynvml.NVMLError(self.error)
            if name not in self.answers:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            answer = self.answers[name]
            return answer(*arguments, **named) if callable(answer) else answer

        return call

    def _set_limit(self, _: Any, limit_mw: int) -> None:
        self.limit_mw = limit_mw

    def _next_event(self, _: Any, timeout_ms: int) -> Any:
        if not self.events:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        kind, data = self.events.pop(0)
        return SimpleNamespace(device="h", eventType=kind, eventData=data)

    def _field_values(self, _: Any, wanted: list[Any]) -> list[Any]:
        answers = []
        for item in wanted:
            field_id = item[0] if isinstance(item, tuple) else item
            known = field_id in self.fields
            answers.append(
                SimpleNamespace(
                    nvmlReturn=pynvml.NVML_SUCCESS if known else pynvml.NVML_ERROR_NOT_SUPPORTED,
                    valueType=pynvml.NVML_VALUE_TYPE_DOUBLE,
                    value=SimpleNamespace(dVal=self.fields.get(field_id, 0.0)),
                )
            )
        return answers
