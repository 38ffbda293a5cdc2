"""Files in a kind's input."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from accelerator_autopilot.contracts.kinds.base import Input


class File(Input):
    """A file, as text or as bytes in base64."""

    name: str = Field(min_length=1, max_length=500)
    text: str | None = None
    base64: str | None = None

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if (self.text is None) == (self.base64 is None):
            raise ValueError("give either text or base64")
        return self

    @classmethod
    def of(cls, name: str, data: bytes) -> File:
        """Create a file from bytes."""
        return cls(name=name, base64=base64.b64encode(data).decode())

    @classmethod
    def read(cls, path: str | Path) -> File:
        """Read a file on this machine, under its own name. Raises OSError when it cannot be read."""
        return cls.of(Path(path).name, Path(path).read_bytes())
