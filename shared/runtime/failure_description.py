"""Describe a failure by its type and location. Its message may quote a job, a key or a row, so it is never logged."""

from __future__ import annotations

import traceback

NEAREST_CALLS = 6


def where(error: BaseException, calls: int = NEAREST_CALLS) -> str:
    """Return the location that raised it and its caller, as `file:line function < file:line function`."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.name}" for f in reversed(frames[-calls:]))


def failure_fields(error: BaseException) -> dict[str, str]:
    """Return type and location, as fields of a log line."""
    return {"error": type(error).__name__, "where": where(error)}


def outline(error: BaseException) -> str:
    """Return type and location of it and its causes, instead of a traceback, which ends with the error's message."""
    outlines: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        outlines.append(f"{type(current).__name__} at {where(current, 20) or 'no place'}")
        if isinstance(current, BaseExceptionGroup):
            outlines += [f"in it {outline(part)}" for part in current.exceptions]
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "; after ".join(outlines)
