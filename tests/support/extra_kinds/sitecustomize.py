"""Gives worker processes that have this folder on their path the kinds beside it as well."""

from pathlib import Path

import services.inference.kinds

services.inference.kinds.__path__.append(str(Path(__file__).parent / "kinds"))
