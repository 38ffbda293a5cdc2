#!/usr/bin/env bash
# The check with a Python that has torch, transformers, nvidia-ml-py and pytest; wheels that it lacks come from
# build/gpu-wheels, without pip's index. Arguments are those of `python -m tests.gpu_check`.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${GPU_PYTHON:-python3}
wheels=${GPU_WHEELS:-build/gpu-wheels}
# Our package lies in several folders (docs/adr/0001-one-import-package.md): links make one of them, without pip.
links=$(mktemp -d)
chmod 755 "$links"
mkdir "$links/accelerator_autopilot"
ln -s "$PWD"/shared/* "$PWD"/services/* "$PWD/deploy" "$links/accelerator_autopilot/"
if ! "$python" -c 'import faststream, nats, pydantic_settings, msgpack, re2' 2>/dev/null; then
  site=$(mktemp -d)
  # Root's services give its rights up: others must be able to read what they import.
  chmod 755 "$site"
  # No pip is needed: a wheel is an archive of what goes on the path, with its programs beside.
  "$python" - "$site" "$wheels"/*.whl <<'PY'
import pathlib, stat, sys, zipfile
site = pathlib.Path(sys.argv[1])
for wheel in sys.argv[2:]:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        for item in archive.infolist():
            if item.external_attr >> 16 & 0o111:
                (site / item.filename).chmod(0o755)
bin = site / "bin"
bin.mkdir(exist_ok=True)
for script in site.glob("*.data/scripts/*"):
    script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    (bin / script.name).symlink_to(script)
for lib in (*site.glob("*.data/purelib/*"), *site.glob("*.data/platlib/*")):
    (site / lib.name).symlink_to(lib)
PY
  export PYTHONPATH="$site:$links:$PWD${PYTHONPATH:+:$PYTHONPATH}" PATH="$site/bin:$PATH"
else
  export PYTHONPATH="$links:$PWD${PYTHONPATH:+:$PYTHONPATH}"
fi
exec "$python" -m tests.gpu_check "$@"
