"""Files out of an archive, in memory, with limits: a bomb or a climbing path ends the job, not the worker. Pure."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from shared.errors import InvalidInputError

MOST_FILES = 5_000
MOST_BYTES = 256 * 2**20
# Text compresses to a tenth, seldom to a hundredth.
MOST_RATIO = 200
CHUNK = 2**16


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of a ZIP or TAR archive (plain, gzip, bzip2, xz) by their paths.

    Raises InvalidInputError for what is no archive, holds too much, or names a path outside of itself.
    """
    entries = _zipped(data) if data[:4] in {b"PK\x03\x04", b"PK\x05\x06"} else _tarred(data)
    files: dict[str, bytes] = {}
    total = 0
    for name, stream, declared in entries:
        if len(files) >= MOST_FILES:
            raise InvalidInputError("archive", f"more than {MOST_FILES} files", "holds too many files")
        if declared > MOST_BYTES:
            raise InvalidInputError("archive", f"{declared} bytes in {name!r}", f"may hold {MOST_BYTES} bytes")
        parts: list[bytes] = []
        while chunk := stream.read(CHUNK):
            total += len(chunk)
            if total > MOST_BYTES or total > MOST_RATIO * max(len(data), CHUNK):
                raise InvalidInputError("archive", f"over {total} bytes", "unpacks to far more than it is")
            parts.append(chunk)
        files[safe_path(name)] = b"".join(parts)
    return files


def safe_path(name: str) -> str:
    """A relative path that stays inside. Raises InvalidInputError for one that does not."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or "\0" in name:
        raise InvalidInputError("archive", name[:200], "names a path outside of itself")
    return str(path)


def _zipped(data: bytes) -> Iterator[tuple[str, io.BufferedIOBase, int]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if info.flag_bits & 1:
                    raise InvalidInputError("archive", info.filename[:200], "is encrypted")
                with archive.open(info) as stream:
                    yield info.filename, stream, info.file_size  # type: ignore[misc]
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise InvalidInputError("archive", type(error).__name__, "is no readable ZIP archive") from error


def _tarred(data: bytes) -> Iterator[tuple[str, io.BufferedIOBase, int]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
            for member in archive:
                safe_path(member.name)
                # Links and devices are no files of their own.
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is not None:
                    yield member.name, stream, member.size  # type: ignore[misc]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InvalidInputError("archive", type(error).__name__, "is no readable ZIP or TAR archive") from error
