"""Files and archives as a kind's input."""

from __future__ import annotations

import base64
import binascii
from typing import Self

from pydantic import Field, model_validator

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.inference.domain.archives import safe_path, unpack
from accelerator_autopilot.inference.kinds.base import Input


class FileInput(Input):
    """One file: its text, or its bytes in base64."""

    name: str = Field(min_length=1, max_length=500)
    text: str | None = None
    base64: str | None = None

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if (self.text is None) == (self.base64 is None):
            raise ValueError("give either text or base64")
        return self

    def data(self) -> bytes:
        """The file's bytes. Raises InvalidInputError for broken base64."""
        return self.text.encode() if self.text is not None else decode_base64(self.base64 or "", self.name)


def decode_base64(text: str, field: str) -> bytes:
    """Bytes of base64. Raises InvalidInputError when it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInputError(field, f"{len(text)} characters", "is not valid base64") from None


def collect(files: list[FileInput], archive: str | None) -> dict[str, bytes]:
    """Files by their paths, from a list and a base64 archive."""
    found = {safe_path(f.name): f.data() for f in files}
    if archive is not None:
        found |= unpack(decode_base64(archive, "archive"))
    return found


def as_text(data: bytes, name: str) -> str:
    """UTF-8 text, also with a byte order mark, or UTF-16 with one. Raises InvalidInputError for anything else."""
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise InvalidInputError(name, f"{len(data)} bytes", "is not UTF-8 text") from None
    if "\0" in text:
        raise InvalidInputError(name, f"{len(data)} bytes", "is binary, not text")
    return text
