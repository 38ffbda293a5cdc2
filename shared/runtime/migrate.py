"""Bring the schema of AUTOPILOT_DATABASE_URL to the newest version.

`python -m accelerator_autopilot.runtime.migrate`
"""

from __future__ import annotations

import asyncio
import os
import sys

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.runtime.database import migrate


def main() -> None:
    """Migrate; an error is the last line on standard error."""
    try:
        asyncio.run(migrate(os.environ["AUTOPILOT_DATABASE_URL"]))
    except UnavailableError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
