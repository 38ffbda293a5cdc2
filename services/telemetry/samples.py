"""What a source reports of its devices: samples and events."""

from __future__ import annotations

from dataclasses import dataclass

Sample = dict[str, float]


@dataclass(frozen=True)
class SourceEvent:
    """Something a source noticed about a device.

    `occurrence` identifies what happened, where the source can, so that duplicates are recognised; `cause` says why
    a device appeared.
    """

    device: str
    kind: str
    code: int | None = None
    message: str = ""
    origin: str = ""
    occurrence: str = ""
    cause: str = ""
