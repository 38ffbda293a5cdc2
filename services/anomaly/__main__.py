"""`python -m services.anomaly`."""

from __future__ import annotations

import asyncio

from services.anomaly.app import create_app
from services.anomaly.settings import AnomalySettings
from shared.logs import setup_logging
from shared.privileges import Needs, drop_privileges
from shared.settings import load


def main() -> None:
    """Run the service."""
    settings = load(AnomalySettings)
    setup_logging("anomaly", settings.log_level)
    drop_privileges(settings, Needs(own=(settings.data_dir.absolute() / "anomaly",)))
    asyncio.run(create_app(settings).run())


if __name__ == "__main__":
    main()
