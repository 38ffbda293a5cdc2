"""Whether code can be shut in on this machine."""

from __future__ import annotations

import pytest

from accelerator_autopilot.inference.adapters.sandbox import Sandbox
from accelerator_autopilot.inference.errors import NotConfiguredError

NO_SANDBOX = "needs a sandbox: "


def _reason() -> str:
    try:
        Sandbox("auto")
    except NotConfiguredError as error:
        return f"{NO_SANDBOX}{error}"
    return ""


REASON = _reason()
NEEDS_SANDBOX = pytest.mark.skipif(bool(REASON), reason=REASON)
