"""Mutation testing of pure domain code with cosmic-ray: python -m tools.mutation [notifier|inference].

It works on a copy, since cosmic-ray changes files in place. Fails where fewer than 85 % of the mutants are killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "accelerator_autopilot"
LEAST_KILLED_PCT = 85.0
TARGETS: dict[str, tuple[tuple[str, ...], str]] = {
    "notifier": (
        ("services/notifier/domain",),
        "tests/unit/test_notice_ledger.py tests/unit/test_notifier.py",
    ),
    "inference": (
        (
            "services/inference/pool/domain",
            "services/inference/worker/domain",
            "services/inference/jobs/retry_policy.py",
        ),
        "tests/unit/test_inference.py tests/unit/test_queue_rules.py tests/unit/test_bad_workers.py",
    ),
}
CONFIG = """
[cosmic-ray]
module-path = [{modules}]
timeout = 60.0
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider {tests}"

[cosmic-ray.distributor]
name = "local"
"""


def copy_checkout(folder: Path) -> Path:
    """A copy of what tests need; returns the folder of links that makes our package importable from it."""
    for name in ("services", "shared", "deploy", "tests", "docs", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    package = folder / "links" / PACKAGE
    package.mkdir(parents=True)
    for source in (*(folder / "shared").iterdir(), *(folder / "services").iterdir(), folder / "deploy"):
        (package / source.name).symlink_to(source)
    return package.parent


def killed_pct(folder: Path, links: Path, target: str) -> float:
    """Share of mutants that the tests notice, in percent. Raises CalledProcessError where cosmic-ray cannot run."""
    modules, tests = TARGETS[target]
    config, session = folder / "cosmic-ray.toml", folder / f"{target}.sqlite"
    quoted = ", ".join(f'"{module}"' for module in modules)
    config.write_text(CONFIG.format(modules=quoted, python=sys.executable, tests=tests), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(links), str(folder)))}
    tools = Path(sys.executable).parent
    for command in (("init", config, session), ("baseline", config), ("exec", config, session)):
        subprocess.run([tools / "cosmic-ray", *command], cwd=folder, env=environment, check=True)
    subprocess.run([tools / "cr-report", "--surviving-only", session], cwd=folder, check=True)
    rate = subprocess.run([tools / "cr-rate", session], cwd=folder, check=True, capture_output=True, text=True).stdout
    return 100.0 - float(rate)


def main() -> None:
    """Run the targets that the arguments name, else all."""
    low = []
    for target in sys.argv[1:] or TARGETS:
        with tempfile.TemporaryDirectory() as scratch:
            killed = killed_pct(Path(scratch), copy_checkout(Path(scratch)), target)
        print(f"{target}: {killed:.1f} % of mutants killed")
        low += [target] if killed < LEAST_KILLED_PCT else []
    if low:
        sys.exit(f"fewer than {LEAST_KILLED_PCT:.0f} % of the mutants of {', '.join(low)} were killed")


if __name__ == "__main__":
    main()
