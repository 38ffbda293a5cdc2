"""`python -m accelerator_autopilot.scheduler [executor|keda]`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.runtime.import_exclusions import leave_out_http_server, leave_out_websockets
from accelerator_autopilot.runtime.json_logs import setup_logging
from accelerator_autopilot.runtime.privilege_drop import Needs, drop_privileges, socket_folders
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.scheduler.settings import ExecutorSettings, KedaSettings, SchedulerSettings


def main() -> None:
    """Run the scheduler, or an executor of its commands."""
    role = sys.argv[1] if len(sys.argv) == 2 else ""
    if len(sys.argv) == 1:
        # Before numpy is imported: more threads only slow small matrices down.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        settings = load(SchedulerSettings)
        leave_out_websockets(settings.nats_url)
        leave_out_http_server()
        from accelerator_autopilot.scheduler.app import create_app  # noqa: PLC0415  each role needs its own libraries

        setup_logging("scheduler", settings.log_level)
        files = (settings.policy_file.absolute(),) if settings.policy_file else ()
        database = settings.database_url.get_secret_value() if settings.database_url else ""
        drop_privileges(settings, Needs(read=files, join=socket_folders(database)))
        try:
            app = create_app(settings)
        except SettingsError as error:
            sys.exit(str(error))
    elif role == "executor":
        executor = load(ExecutorSettings)
        leave_out_websockets(executor.nats_url)
        leave_out_http_server()
        from accelerator_autopilot.scheduler.executors.app import create_executor  # noqa: PLC0415

        setup_logging("executor", executor.log_level)
        drop_privileges(executor, _executor_needs(executor))
        app = create_executor(executor)
    elif role == "keda":
        keda = load(KedaSettings)
        leave_out_websockets(keda.nats_url)
        leave_out_http_server()
        from accelerator_autopilot.scheduler.executors.keda_app import create_keda  # noqa: PLC0415

        setup_logging("keda", keda.log_level)
        drop_privileges(keda)
        app = create_keda(keda)
    else:
        sys.exit("usage: python -m accelerator_autopilot.scheduler [executor|keda]")
    asyncio.run(app.run())


def _executor_needs(executor: ExecutorSettings) -> Needs:
    if executor.orchestrator == "docker":
        host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        return Needs(join=(Path(host.removeprefix("unix://")),)) if host.startswith("unix://") else Needs()
    return Needs(read=(Path(executor.kubernetes_config).absolute(),)) if executor.kubernetes_config else Needs()


if __name__ == "__main__":
    main()
