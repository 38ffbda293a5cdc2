"""Gives worker processes that have this folder on their path the kinds beside it as well."""

from pathlib import Path

import accelerator_autopilot.inference.kinds

accelerator_autopilot.inference.kinds.__path__.append(str(Path(__file__).parent / "kinds"))
