"""`python -m shared.migrating`: bring the schema of AUTOPILOT_DATABASE_URL to the newest version."""

from __future__ import annotations

import asyncio
import os
import sys

from shared.database import migrate
from shared.errors import UnavailableError


def main() -> None:
    """Migrate; what goes wrong is the last line on standard error."""
    try:
        asyncio.run(migrate(os.environ["AUTOPILOT_DATABASE_URL"]))
    except UnavailableError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
