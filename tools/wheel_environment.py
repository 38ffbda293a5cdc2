"""An environment that holds the built wheel instead of the checkout, beside packages with names that collide easily."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "accelerator_autopilot"
COMMON_NAMES = ("services", "shared", "deploy", "tests")


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout. Raises CalledProcessError where pip cannot build it."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "-w", folder]
    subprocess.run([*map(str, command), str(ROOT)], check=True, cwd=ROOT)
    return next(folder.glob(f"{PACKAGE}-*.whl"))


def top_level_names(wheel: Path) -> set[str]:
    """What the wheel puts into site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        return {name.split("/", 1)[0] for name in archive.namelist()}


def make_environment(folder: Path, wheel: Path) -> Path:
    """An environment with this wheel and everything installed here but the checkout; returns its interpreter.

    It also holds foreign packages named as common folders of projects are.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = Path(_ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if PACKAGE not in entry.name and not entry.name.startswith("__editable__"):
            (site / entry.name).symlink_to(entry)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--disable-pip-version-check",
         "--no-deps", "--no-index", str(wheel)],
        check=True, env=without_checkout(),
    )  # fmt: skip
    # Programs of other packages (nats-server, ruff) are looked for beside the interpreter.
    for program in (Path(sysconfig.get_path("scripts"))).iterdir():
        own = folder / "bin" / program.name
        if not own.exists() and program.name != "autopilot":
            own.symlink_to(program)
    make_foreign_packages(site)
    return python


def make_foreign_packages(folder: Path) -> None:
    """Packages of other people that no process of ours may import."""
    for name in COMMON_NAMES:
        package = folder / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f'raise ImportError("the foreign package {name} was imported")\n')


def without_checkout() -> dict[str, str]:
    """The environment variables without PYTHONPATH: through it pip takes a checkout for an installed package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _ask(python: Path, code: str) -> str:
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()
