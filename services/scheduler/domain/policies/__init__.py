"""Every policy; adding one is adding a file with a `make()`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from services.scheduler.domain.policy import Policy
from shared.errors import SettingsError


def make_policy(name: str) -> Policy:
    """The policy of this name. Raises SettingsError."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    if name not in names:
        raise SettingsError(f"AUTOPILOT_POLICY_NAME={name!r}: there are {', '.join(names)}")
    policy: Policy = import_module(f"{__name__}.{name}").make()
    return policy
