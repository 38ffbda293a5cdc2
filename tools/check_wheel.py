"""Check what `make release` built: names, metadata, and the tour from an environment that holds only the wheel.

python -m tools.check_wheel dist
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tools.wheel_environment import PACKAGE, make_environment, make_foreign_packages, top_level_names, without_checkout


def main() -> None:
    """Exit with 1 and a line that says why where the wheel in the folder is not fit for release."""
    wheel = max(Path(sys.argv[1]).glob(f"{PACKAGE}-*.whl"), key=lambda path: path.stat().st_mtime)
    strangers = {name for name in top_level_names(wheel) if not name.startswith(PACKAGE)}
    if strangers:
        sys.exit(f"{wheel.name} also installs {', '.join(sorted(strangers))}")
    with tempfile.TemporaryDirectory() as scratch:
        python = make_environment(Path(scratch) / "environment", wheel)
        folder = Path(scratch) / "project"
        make_foreign_packages(folder)
        done = subprocess.run(
            [str(python.parent / "autopilot"), "tour"], cwd=folder, env=without_checkout(), check=False
        )
    if done.returncode:
        sys.exit(f"the tour of {wheel.name} failed with {done.returncode}")
    print(f"{wheel.name} is fit for release")


if __name__ == "__main__":
    main()
