"""A recorded driver in memory: pynvml answers from a file. As a program it starts a module with that driver."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

from tests.gpu_check.nvml_recording import question


class Playback:
    """Answers as the card did; what it was never asked is not supported."""

    def __init__(self, path: Path) -> None:
        recording = json.loads(path.read_text())
        self._answers: dict[str, dict[str, Any]] = recording["answers"]
        self._fields: dict[str, dict[str, Any]] = recording["fields"]
        self._gpm: dict[str, dict[str, Any]] = recording["gpm"]
        self._sampled = False

    def functions(self) -> dict[str, Any]:
        """Every function of pynvml, answering from the recording."""
        names = [n for n in dir(pynvml) if n.startswith("nvml") and callable(getattr(pynvml, n))]
        found = {n: self._function(n) for n in names if not isinstance(getattr(pynvml, n), type)}
        return found | {
            "nvmlDeviceGetFieldValues": self._field_values, "nvmlGpmMetricsGet": self._gpm_metrics,
            "nvmlDeviceGetSamples": self._samples, "nvmlEventSetWait_v2": self._no_event,
            "nvmlInit": lambda: None, "nvmlShutdown": lambda: None, "nvmlEventSetFree": lambda _: None,
            "nvmlGpmSampleAlloc": pynvml.c_nvmlGpmSample_t, "nvmlGpmSampleFree": lambda _: None,
            "nvmlGpmSampleGet": lambda _, sample: sample,
        }  # fmt: skip

    def install(self) -> None:
        """Take pynvml's place in this process."""
        for name, function in self.functions().items():
            setattr(pynvml, name, function)

    def _function(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            plain = [{"handle": a} if isinstance(a, str) and a.startswith("handle-") else a for a in arguments]
            answer = self._answers.get(name, {}).get(question(name, plain, named))
            if answer is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            if "error" in answer:
                raise pynvml.NVMLError(answer["error"])
            return revived(answer["value"])

        return call

    def _field_values(self, _: Any, wanted: list[Any]) -> list[Any]:
        found = []
        for item in wanted:
            field_id, scope = item if isinstance(item, tuple) else (item, 0)
            known = self._fields.get(f"{field_id}:{scope}")
            found.append(
                SimpleNamespace(
                    fieldId=field_id,
                    nvmlReturn=known["error"] if known else pynvml.NVML_ERROR_NOT_SUPPORTED,
                    valueType=known["type"] if known else 0,
                    value=revived(known["value"]) if known else SimpleNamespace(dVal=0.0),
                )
            )
        return found

    def _gpm_metrics(self, request: Any) -> Any:
        for i in range(request.numMetrics):
            known = self._gpm.get(str(request.metrics[i].metricId))
            request.metrics[i].nvmlReturn = known["error"] if known else pynvml.NVML_ERROR_NOT_SUPPORTED
            request.metrics[i].value = known["value"] if known else 0.0
        return request

    def _samples(self, handle: Any, kind: int, _: int) -> Any:
        """The recorded samples once: time does not go on in a recording."""
        value_type, samples = self._function("nvmlDeviceGetSamples")(handle, kind, 0)
        told, self._sampled = ([] if self._sampled else samples), True
        return value_type, told

    def _no_event(self, *_: Any) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)


def revived(value: Any) -> Any:
    """A recorded value as the code under test takes it."""
    if isinstance(value, dict) and "handle" in value:
        return value["handle"]
    if isinstance(value, dict) and "struct" in value:
        return SimpleNamespace(**{name: revived(v) for name, v in value["struct"].items()})
    if isinstance(value, list):
        return [revived(v) for v in value]
    return value


def main() -> None:
    """`python -m tests.gpu_check.nvml_playback RECORDING MODULE [ARGUMENT...]`."""
    recording, module, *rest = sys.argv[1:]
    Playback(Path(recording)).install()
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
