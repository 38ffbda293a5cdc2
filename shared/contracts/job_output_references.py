"""Payloads that refer to another job's output: `{"$result": "<job id>", "select": "path.to.0"}`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from accelerator_autopilot.contracts.errors import InvalidInputError

KEY = "$result"


def wanted_jobs(payload: Any) -> list[str]:
    """Return the ids that a payload refers to, each once, in order."""
    return list(dict.fromkeys(str(reference[KEY]) for reference in _references(payload)))


def fill_in(payload: Any, outputs: Mapping[str, Any]) -> Any:
    """Replace every reference in a payload. Raises InvalidInputError for a path that does not exist."""
    if isinstance(payload, list):
        return [fill_in(item, outputs) for item in payload]
    if not isinstance(payload, dict):
        return payload
    if KEY not in payload:
        return {key: fill_in(value, outputs) for key, value in payload.items()}
    found = outputs[str(payload[KEY])]
    path = str(payload.get("select") or "")
    for step in path.split(".") if path else ():
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise InvalidInputError("select", path, f"does not exist in the output of job {payload[KEY]}") from None
    return found


def _references(payload: Any) -> Iterator[dict[str, Any]]:
    if isinstance(payload, list):
        for item in payload:
            yield from _references(item)
    elif isinstance(payload, dict):
        if KEY in payload:
            yield payload
        else:
            yield from _references(list(payload.values()))
