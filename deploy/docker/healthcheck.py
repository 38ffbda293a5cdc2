"""Exit 0 when this container's service is ready."""

import os
import sys
import urllib.request

port = os.environ.get("AUTOPILOT_HEALTH_PORT", "9090")
try:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as reply:
        sys.exit(reply.status != 200)
except OSError as error:
    sys.exit(f"not ready: {error}")
