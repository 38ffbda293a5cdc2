"""Determine where a client connects: arguments, the environment, or the product on this machine."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from accelerator_autopilot.contracts.data_folder import DEFAULT_DATA_DIR, RUNTIME_FILE
from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.job_building import first_problem
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT
from accelerator_autopilot.contracts.service_names import SERVICE_NAMES
from accelerator_autopilot.transport.settings import NatsSettings


def connect_settings(
    url: str | Sequence[str] | None,
    *,
    token: str | None = None,
    user: str | None = None,
    password: str | None = None,
    credentials: str | Path | None = None,
    ca: str | Path | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
) -> NatsSettings:
    """Return settings of the connection. Raises InvalidInputError."""
    given: dict[str, Any] = {
        "nats_url": url if url is None or isinstance(url, str) else ",".join(url),
        "nats_token": token,
        "nats_user": user,
        "nats_password": password,
        "nats_credentials": credentials,
        "nats_ca": ca,
        "nats_certificate": certificate,
        "nats_key": key,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if (user is None) != (password is None):
        raise InvalidInputError("user", user, "user and password must be given together")
    for name in ("nats_credentials", "nats_ca", "nats_certificate", "nats_key"):
        if name in given and not Path(given[name]).is_file():
            raise InvalidInputError(name.removeprefix("nats_"), str(given[name]), "is not a file")
    if url is None and "AUTOPILOT_NATS_URL" not in os.environ:
        given = local_product() | given
    try:
        return NatsSettings(**given)
    except ValidationError as error:
        raise first_problem(error) from error


def local_product() -> dict[str, Any]:
    """Return how to reach the product that runs on this machine, from its runtime file; None when there is none."""
    folder = Path(os.environ.get("AUTOPILOT_DATA_DIR") or DEFAULT_DATA_DIR)
    names = ("nats_url", "nats_user", "nats_password")
    try:
        runtime = json.loads((folder / RUNTIME_FILE).read_text(encoding="utf-8"))
        return {name: str(runtime[name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def default_actor() -> str:
    """Return the user of this process; one that is called like a service gets the prefix `user-`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "client"
    return f"user-{user}" if user in SERVICE_NAMES else user


def default_project() -> str:
    """Return the project that AUTOPILOT_PROJECT names, else `default`."""
    return os.environ.get("AUTOPILOT_PROJECT") or DEFAULT_PROJECT
