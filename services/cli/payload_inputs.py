"""Convert files on the command line to the payload that a kind expects."""

from __future__ import annotations

import base64
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.transport.payload_store import MAX_PAYLOAD_BYTES

TEXT_PAYLOADS: dict[str, Callable[[str], dict[str, Any]]] = {
    "embed": lambda text: {"texts": [text]},
    "classify": lambda text: {"texts": [text]},
    "generate": lambda text: {"prompt": text},
    "chat": lambda text: {"messages": [{"role": "user", "content": text}]},
    "analyze-code": lambda text: {"code": text},
    "generate-tests": lambda text: {"code": text},
    "detect-anomalies": lambda text: {"file": {"name": "table.csv", "text": text}},
}
FILE_KINDS = {"analyze-code", "analyze-logs", "classify-image"}
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
# Lines are many jobs, each with a payload of its own.
MAX_LINES_BYTES = 1 << 30
LEFT_OUT = {".git", ".venv", "node_modules", "__pycache__"}


def read_payload(kind: str, sources: list[str], settings: Iterable[str] = ()) -> dict[str, Any]:
    """Convert files to a payload: a JSON object is used as it is; other files and folders become the kind's input.

    `settings` are further fields, NAME=JSON or NAME=text. Raises InvalidInputError for unreadable input.
    """
    payload: dict[str, Any] = {}
    paths = [Path(s) for s in sources if s != "-"]
    if kind in FILE_KINDS and paths and (len(paths) > 1 or not _is_object(paths[0])):
        payload = _files(paths)
    elif kind == "detect-anomalies" and len(paths) == 1 and not _is_object(paths[0]):
        payload = {"file": {"name": paths[0].name, "base64": _encoded(_bytes(paths[0]))}}
    elif len(sources) == 1:
        payload = _of_text(kind, _stdin(MAX_PAYLOAD_BYTES) if sources[0] == "-" else _text(paths[0]))
    elif sources:
        raise InvalidInputError("FILE", f"{len(sources)} files", f"{kind} takes one; map runs a job for each")
    return payload | dict(_setting(s) for s in settings)


def read_lines(source: str) -> list[dict[str, Any]]:
    """Parse one JSON object per line. Raises InvalidInputError, naming the line, for anything else."""
    text = _stdin(MAX_LINES_BYTES) if source == "-" else _text(Path(source), MAX_LINES_BYTES)
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            loaded = json.loads(line)
        except (ValueError, RecursionError):
            loaded = None
        if not isinstance(loaded, dict):
            raise InvalidInputError("FILE", f"line {number}", "must be a JSON object")
        found.append(loaded)
    return found


def _of_text(kind: str, text: str) -> dict[str, Any]:
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        loaded = None
    if isinstance(loaded, dict):
        return loaded
    return TEXT_PAYLOADS[kind](text) if kind in TEXT_PAYLOADS else {"text": text}


def _files(paths: list[Path]) -> dict[str, Any]:
    if len(paths) == 1 and paths[0].name.endswith(ARCHIVES):
        return {"archive": _encoded(_bytes(paths[0]))}
    folders = [p for p in paths if p.is_dir()]
    if not folders:
        return {"files": [{"name": p.name, "base64": _encoded(_bytes(p))} for p in paths]}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            for one in inside:
                name = one.relative_to(path if path.is_dir() else path.parent)
                if not LEFT_OUT & set(name.parts):
                    archive.writestr(str(name), _bytes(one))
                if out.tell() > MAX_PAYLOAD_BYTES:
                    raise _too_large(str(path), MAX_PAYLOAD_BYTES)
    return {"archive": _encoded(out.getvalue())}


def _is_object(path: Path) -> bool:
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        return isinstance(json.loads(_text(path)), dict)
    except (ValueError, RecursionError):
        return False


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidInputError("--set", text, "must be NAME=VALUE")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(path: Path, most: int = 0) -> bytes:
    """Read a file of at most so many bytes, by default of a payload's; it may be a device or a pipe without an end."""
    most = most or MAX_PAYLOAD_BYTES
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InvalidInputError("FILE", str(path), f"cannot be read ({type(error).__name__})") from error
    if len(data) > most:
        raise _too_large(str(path), most)
    return data


def _text(path: Path, most: int = 0) -> str:
    return _decoded(str(path), _bytes(path, most))


def _stdin(most: int) -> str:
    data = sys.stdin.buffer.read(most + 1)
    if len(data) > most:
        raise _too_large("-", most)
    return _decoded("-", data)


def _decoded(name: str, data: bytes) -> str:
    try:
        return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
    except UnicodeDecodeError as error:
        message = f"cannot be read as UTF-8 text ({type(error).__name__})"
        raise InvalidInputError("FILE", name, message) from error


def _too_large(name: str, most: int) -> InvalidInputError:
    return InvalidInputError("FILE", name, f"has more than {most} bytes: split it")
