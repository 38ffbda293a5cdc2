"""NVML's answers on a real card, in a file that `nvml_playback` answers from."""

from __future__ import annotations

import ctypes
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml

# What differs from call to call, and would make each call another question.
FREE_ARGUMENTS = {"nvmlDeviceGetSamples": 2, "nvmlDeviceGetProcessUtilization": 1, "nvmlDeviceGetFieldValues": 1}
NOT_KEPT = {"nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"}


class Recording:
    """Every NVML call of this process: what it answered and how long it took."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.fields: dict[str, dict[str, Any]] = {}
        self.gpm: dict[str, dict[str, Any]] = {}
        self.times_us: dict[str, list[float]] = defaultdict(list)
        self._handles: dict[int, str] = {}

    def install(self) -> None:
        """Stand between this process and pynvml."""
        for name in [n for n in dir(pynvml) if n.startswith("nvml") and callable(getattr(pynvml, n))]:
            if not isinstance(getattr(pynvml, name), type):
                setattr(pynvml, name, self._wrapped(name, getattr(pynvml, name)))

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                answer = call(*arguments, **named)
            except pynvml.NVMLError as error:
                self.times_us[name].append((time.perf_counter() - began) * 1e6)
                self._keep(name, arguments, named, {"error": error.value})
                raise
            self.times_us[name].append((time.perf_counter() - began) * 1e6)
            self._keep(name, arguments, named, {"value": [] if name in NOT_KEPT else self.plain(answer)})
            if name == "nvmlDeviceGetFieldValues":
                self._keep_fields(arguments[1], answer)
            elif name == "nvmlGpmMetricsGet":
                self._keep_gpm(arguments[0])
            return answer

        return recorded

    def _keep(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any], answer: dict[str, Any]) -> None:
        self.answers.setdefault(name, {})[question(name, [self.plain(a) for a in arguments], named)] = answer

    def _keep_fields(self, wanted: Any, answer: Any) -> None:
        for item, found in zip(wanted, answer, strict=True):
            field_id, scope = item if isinstance(item, tuple) else (item, 0)
            self.fields[f"{field_id}:{scope}"] = {
                "error": found.nvmlReturn, "type": found.valueType, "value": self.plain(found.value),
            }  # fmt: skip

    def _keep_gpm(self, request: Any) -> None:
        for i in range(request.numMetrics):
            metric = request.metrics[i]
            self.gpm[str(metric.metricId)] = {"error": metric.nvmlReturn, "value": metric.value}

    def plain(self, value: Any) -> Any:
        """A value as JSON can hold it; a pointer becomes the number of its handle."""
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        if isinstance(value, ctypes.Array | list | tuple):
            return [self.plain(v) for v in value]
        if isinstance(value, ctypes.Structure | ctypes.Union):
            return {"struct": {name: self.plain(getattr(value, name)) for name, *_ in value._fields_}}
        if hasattr(value, "contents"):
            address = ctypes.addressof(value.contents) if value else 0
            return {"handle": self._handles.setdefault(address, f"handle-{len(self._handles)}")}
        if hasattr(value, "__dict__"):
            return {"struct": {k: self.plain(v) for k, v in vars(value).items()}}
        return value.value if isinstance(value, ctypes._SimpleCData) else value

    def save(self, path: Path, **more: Any) -> None:
        """Write it, an answer a line, without what names this very card."""
        answers = {name: found for name, found in self.answers.items() if name != "nvmlGpmMetricsGet"}
        parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in more.items()]
        for name, table in (("answers", answers), ("fields", self.fields), ("gpm", self.gpm)):
            rows = [f" {json.dumps(key)}: {json.dumps(value, sort_keys=True)}" for key, value in sorted(table.items())]
            parts.append(f"{json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n}")
        path.write_text(anonymous("{\n" + ",\n".join(parts) + "\n}\n", self.answers))


def question(name: str, arguments: list[Any], named: dict[str, Any]) -> str:
    """A call's arguments as a key; NaN and addresses are never among them."""
    free = FREE_ARGUMENTS.get(name)
    kept = ["*" if i == free else argument for i, argument in enumerate(arguments)]
    if name == "nvmlGpmMetricsGet":
        kept = ["*"]
    return json.dumps([kept, named] if named else kept, sort_keys=True)


def anonymous(text: str, answers: dict[str, dict[str, Any]]) -> str:
    """The recording without UUIDs and serial numbers."""
    uuids = dict.fromkeys(re.findall(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", text))
    for i, uuid in enumerate(uuids, 1):
        text = text.replace(uuid, f"00000000-0000-0000-0000-{i:012d}")
    for name in ("nvmlDeviceGetSerial", "nvmlDeviceGetBoardId", "nvmlDeviceGetModuleId"):
        for answer in answers.get(name, {}).values():
            secret = answer.get("value")
            if isinstance(secret, str) and len(secret) > 4:
                text = text.replace(secret, "0" * len(secret))
    return text
