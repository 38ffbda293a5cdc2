"""Licences, an SBOM (CycloneDX) and known vulnerabilities of what is installed.

python -m tools.dependency_review build
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Licences that ask for more than notice, or that a distributor has to look at.
REVIEW = ("AGPL", "GPL", "SSPL", "BUSL", "Proprietary", "UNKNOWN")


def main() -> None:
    """Write licences.json and sbom.json into the folder; exit with 1 where a vulnerability is known."""
    folder, tools = Path(sys.argv[1]), Path(sys.executable).parent
    folder.mkdir(exist_ok=True)
    licences = folder / "licences.json"
    subprocess.run([tools / "pip-licenses", "--format=json", f"--output-file={licences}"], check=True)
    sbom = ["cyclonedx-py", "environment", "--output-reproducible", "-o", str(folder / "sbom.json"), sys.prefix]
    subprocess.run([tools / sbom[0], *sbom[1:]], check=True)
    listed = subprocess.run(
        [tools / "pip-licenses", "--format=csv"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for line in listed[1:]:
        if any(word in line for word in REVIEW):
            print(f"look at: {line}")
    found = subprocess.run(
        [tools / "pip-audit", "--skip-editable", "--progress-spinner=off"], check=False, capture_output=True, text=True
    )
    if "ConnectionError" in found.stderr or "Max retries" in found.stderr:
        print("pip-audit could not reach its database: vulnerabilities not checked")
        return
    print(found.stdout or found.stderr)
    sys.exit(found.returncode)


if __name__ == "__main__":
    main()
