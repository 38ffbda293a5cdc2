"""Maps the folders of this repository onto the one package that is installed: docs/adr/0001-one-import-package.md."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "accelerator_autopilot"
ROOT = Path(__file__).parent
SERVICES = sorted(file.parent.name for file in ROOT.glob("services/*/__init__.py"))
FOLDERS = {NAME: "shared", f"{NAME}.deploy": "deploy"} | {f"{NAME}.{name}": f"services/{name}" for name in SERVICES}
# The manual travels with the gateway; images of other services are built without it.
if (ROOT / "docs").is_dir():
    FOLDERS |= {f"{NAME}.gateway.manual": "docs"}


def packages() -> list[str]:
    """Every package below the mapped folders, by the name that it is imported under."""
    found = []
    for package, folder in FOLDERS.items():
        found += [package, *(f"{package}.{name}" for name in find_packages(str(ROOT / folder)))]
    return found


setup(packages=packages(), package_dir=FOLDERS)
