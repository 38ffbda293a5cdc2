"""Files and archives as a kind's input."""

from __future__ import annotations

import base64
import binascii

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.files import File
from accelerator_autopilot.inference.domain.archives import safe_path, unpack


def decode_base64(text: str, field: str) -> bytes:
    """Decode base64. Raises InvalidInputError for invalid base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInputError(field, f"{len(text)} characters", "is not valid base64") from None


def data_of(file: File) -> bytes:
    """Return the file's bytes. Raises InvalidInputError for invalid base64."""
    return file.text.encode() if file.text is not None else decode_base64(file.base64 or "", file.name)


def collect(files: list[File], archive: str | None) -> dict[str, bytes]:
    """Return files by path, from a list and a base64 archive."""
    found = {safe_path(f.name): data_of(f) for f in files}
    if archive is not None:
        found |= unpack(decode_base64(archive, "archive"))
    return found


def as_text(data: bytes, name: str) -> str:
    """Decode UTF-8, also with a byte order mark, or UTF-16 with one. Raises InvalidInputError for anything else."""
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise InvalidInputError(name, f"{len(data)} bytes", "is not UTF-8 text") from None
    if "\0" in text:
        raise InvalidInputError(name, f"{len(data)} bytes", "is binary, not text")
    return text
