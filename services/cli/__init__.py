"""The command line."""

import os

from accelerator_autopilot.runtime.lean_imports import leave_out_websockets

# `autopilot up` stays for as long as the product does.
leave_out_websockets(os.environ.get("AUTOPILOT_NATS_URL", ""))
