"""Extract files from an archive in memory, within limits. Pure.

A decompression bomb or a path that climbs out of the archive fails the job, not the worker. Extracted bytes and headers
are counted as they arrive, before the archive library sees them: an archive of two megabytes may hold a million names,
or one name of a gigabyte.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from accelerator_autopilot.contracts.errors import InvalidInputError

MAX_FILES = 5_000
MAX_MEMBERS = 10_000
MAX_BYTES = 256 * 2**20
MAX_METADATA_BYTES = 2**20
# Text usually compresses to a tenth of its size, rarely to a hundredth.
MAX_RATIO = 200
CHUNK = 2**16
BLOCK = 512
MAX_NAME_LENGTH = 4_096
# TAR members that describe the next one: GNU long names and POSIX (pax) headers.
META = {b"L", b"K", b"x", b"g", b"X"}
ZIP_ENTRY, ZIP_END = 46, 22
UNREADABLE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the files of a ZIP or TAR archive (plain, gzip, bzip2, xz) by path.

    Raises InvalidInputError for anything that is not an archive, holds too much, or contains a path that leads
    outside.
    """
    try:
        return dict(_files(data))
    except (*UNREADABLE, NotImplementedError, RuntimeError, KeyError) as error:
        raise InvalidInputError("archive", type(error).__name__, "is not a readable ZIP or TAR archive") from error


def safe_path(name: str) -> str:
    """Return a relative path that stays inside the archive. Raises InvalidInputError for any other."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or "\0" in name:
        raise InvalidInputError("archive", name[:200], "contains a path that leads outside the archive")
    if len(name.encode(errors="surrogatepass")) > MAX_NAME_LENGTH:
        raise InvalidInputError("archive", name[:200], f"contains a path of more than {MAX_NAME_LENGTH} bytes")
    return str(path)


def _files(data: bytes) -> Iterator[tuple[str, bytes]]:
    found = _zipped(data) if data[:4] in {b"PK\x03\x04", b"PK\x05\x06"} else _tarred(data)
    for count, (name, content) in enumerate(found):
        if count >= MAX_FILES:
            raise InvalidInputError("archive", f"more than {MAX_FILES} files", "contains too many files")
        yield safe_path(name), content


class _Counted(io.RawIOBase):
    """A stream that fails the job when it yields more bytes than allowed."""

    def __init__(self, stream: io.BufferedIOBase | IO[bytes], most: int) -> None:
        self._stream, self._most, self.given = stream, most, 0

    def take(self, size: int) -> bytes:
        """Read exactly this many bytes. Raises EOFError when there are fewer."""
        parts = bytearray()
        while len(parts) < size:
            piece = self._stream.read(min(CHUNK, size - len(parts)))
            if not piece:
                raise EOFError("ends in the middle of a file")
            self.given += len(piece)
            if self.given > self._most:
                raise InvalidInputError("archive", f"over {self.given} bytes", "unpacks to much more than its own size")
            parts += piece
        return bytes(parts)


def _most(data: bytes) -> int:
    return min(MAX_BYTES, MAX_RATIO * max(len(data), CHUNK))


def _zipped(data: bytes) -> Iterator[tuple[str, bytes]]:
    # The reader creates an object for each entry right away, so entries are counted first.
    if data.count(b"PK\x01\x02") > MAX_MEMBERS or _declared(data) > MAX_MEMBERS:
        raise InvalidInputError("archive", f"more than {MAX_MEMBERS} members", "contains too many members")
    left = _most(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if info.is_dir():
                safe_path(info.filename)
                continue
            if info.flag_bits & 1:
                raise InvalidInputError("archive", info.filename[:200], "is encrypted")
            if info.file_size > left:
                raise InvalidInputError("archive", f"{info.file_size} bytes", "unpacks to much more than its own size")
            with archive.open(info) as stream:
                content = _Counted(stream, left).take(info.file_size)
            left -= len(content)
            yield info.filename, content


def _declared(data: bytes) -> int:
    """Return the number of entries that the end of a ZIP archive declares."""
    at = data.rfind(b"PK\x05\x06")
    if at < 0 or len(data) < at + ZIP_END:
        raise zipfile.BadZipFile("has no end")
    return int.from_bytes(data[at + 10 : at + 12], "little")


def _tarred(data: bytes) -> Iterator[tuple[str, bytes]]:
    stream = _Counted(_decompressed(data), _most(data) + BLOCK * MAX_MEMBERS)
    members = meta = 0
    before: list[bytes] = []
    while True:
        try:
            header = stream.take(BLOCK)
        except EOFError:
            if members == 0:
                raise
            return
        if not header.strip(b"\0"):
            if members == 0:
                raise tarfile.ReadError("empty")
            return
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        members += 1
        if members > MAX_MEMBERS:
            raise InvalidInputError("archive", f"more than {MAX_MEMBERS} members", "contains too many members")
        padded = -(-member.size // BLOCK) * BLOCK
        if member.type in META:
            meta += max(0, member.size)
            if meta > MAX_METADATA_BYTES:
                raise InvalidInputError(
                    "archive", f"over {meta} bytes of names", "contains more bytes of names than of files"
                )
            before += [header, stream.take(padded)]
            continue
        content = stream.take(padded) if _has_content(member) else b""
        yield from _one_member(b"".join([*before, header, content]))
        before = []


def _has_content(member: tarfile.TarInfo) -> bool:
    return member.isreg() or member.type not in tarfile.SUPPORTED_TYPES


def _one_member(block: bytes) -> Iterator[tuple[str, bytes]]:
    """Return the file that these blocks hold, as earlier blocks describe it; None for links, folders and devices."""
    with tarfile.open(fileobj=io.BytesIO(block + b"\0" * 2 * BLOCK), mode="r:") as archive:
        for member in archive:
            safe_path(member.name)
            stream = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if stream is not None:
                yield member.name, stream.read()


def _decompressed(data: bytes) -> io.BufferedIOBase:
    source = io.BytesIO(data)
    if data[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=source)
    if data[:3] == b"BZh":
        return bz2.BZ2File(source)
    if data[:6] == b"\xfd7zXZ\0" or data[:3] == b"\x5d\0\0":
        return lzma.LZMAFile(source)
    return source
