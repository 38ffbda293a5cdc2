"""Licences, an SBOM (CycloneDX) and known vulnerabilities of what is installed.

python -m tools.dependency_review build
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    sys.exit(audit(tools))


def audit(tools: Path) -> str | None:
    """What pip-audit knows against what is installed; None for nothing. Says how much it could check."""
    command = [tools / "pip-audit", "--skip-editable", "--progress-spinner=off", "--format=json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        if any(word in done.stderr for word in ("ConnectionError", "Max retries", "Timeout")):
            print(f"vulnerabilities NOT checked, the database cannot be reached: {reason}")
            return None
        return f"pip-audit failed: {reason}"
    checked = [package for package in packages if "skip_reason" not in package]
    print(f"vulnerabilities of {len(checked)} of {len(packages)} packages checked")
    if not checked:
        print(f"NOT checked, for example: {packages[0]['skip_reason'] if packages else 'nothing is installed'}")
    known = [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'none'}"
        for package in checked
        for found in package["vulns"]
    ]
    return "\n".join(known) or None


if __name__ == "__main__":
    main()
