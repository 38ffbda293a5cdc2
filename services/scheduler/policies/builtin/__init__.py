"""Every policy; to add one, add a file with a `make()`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.scheduler.policies.contract import PoolPolicyMaker


def policy_names() -> list[str]:
    """Return the names of all policies."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def policy_maker(name: str) -> PoolPolicyMaker:
    """Return the factory of the policy with this name. Raises SettingsError."""
    if name not in policy_names():
        raise SettingsError(f"unknown policy {name!r}; available: {', '.join(policy_names())}")
    make: PoolPolicyMaker = import_module(f"{__name__}.{name}").make
    return make
