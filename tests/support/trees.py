"""Trees of small files as a kernel shows them. Values and names as on the machines that each test names."""

from __future__ import annotations

from pathlib import Path


def plant(root: Path, files: dict[str, str | int]) -> Path:
    """Write files under a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root
