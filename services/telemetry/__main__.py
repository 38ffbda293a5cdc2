"""`python -m accelerator_autopilot.telemetry agent|recorder`."""

from __future__ import annotations

import asyncio
import gc
import sys

from accelerator_autopilot.runtime.import_exclusions import leave_out_http_server, leave_out_websockets
from accelerator_autopilot.runtime.json_logs import setup_logging
from accelerator_autopilot.runtime.privilege_drop import Needs, drop_privileges, socket_folders
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.telemetry.settings import AgentSettings, RecorderSettings


def main() -> None:
    """Run the app that the first argument names."""
    role = sys.argv[1] if len(sys.argv) == 2 else ""
    if role == "agent":
        agent = load(AgentSettings)
        setup_logging("agent", agent.log_level)
        leave_out_websockets(agent.nats_url)
        leave_out_http_server()
        from accelerator_autopilot.telemetry.agent.app import create_agent  # noqa: PLC0415  an agent needs no database

        app = create_agent(agent)
    elif role == "recorder":
        recorder = load(RecorderSettings)
        setup_logging("recorder", recorder.log_level)
        leave_out_websockets(recorder.nats_url)
        leave_out_http_server()
        drop_privileges(recorder, Needs(join=socket_folders(recorder.database_url.get_secret_value())))
        from accelerator_autopilot.telemetry.recorder.app import create_recorder  # noqa: PLC0415  a recorder needs no driver

        app = create_recorder(recorder)
        # A batch allocates tens of thousands of objects that reference counting frees: running the cycle
        # collector every 700 allocations took a tenth of the recorder's time.
        gc.freeze()
        gc.set_threshold(100_000, 20, 100)
    else:
        sys.exit("usage: python -m accelerator_autopilot.telemetry agent|recorder")
    asyncio.run(app.run())


if __name__ == "__main__":
    main()
