"""Translate connection errors to our own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import nats.errors
from nats.js.errors import NoStreamResponseError, NotFoundError, ServiceUnavailableError

from accelerator_autopilot.contracts.errors import UnavailableError

P = ParamSpec("P")
T = TypeVar("T")
NOT_OURS = "this NATS server holds no Autopilot: `autopilot up` starts one"


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise UnavailableError for nats-py's errors in this block."""
    try:
        yield
    except (NotFoundError, ServiceUnavailableError, NoStreamResponseError, nats.errors.NoRespondersError) as error:
        raise UnavailableError(f"{what}: {NOT_OURS} ({type(error).__name__})") from error
    except nats.errors.TimeoutError as error:
        raise UnavailableError(f"{what}: the server did not answer in time") from error
    except nats.errors.Error as error:
        raise UnavailableError(f"{what}: {error or type(error).__name__}") from error


def call(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Wrap a method of the client to raise UnavailableError for nats-py's errors."""

    @wraps(method)
    async def called(*arguments: P.args, **named: P.kwargs) -> T:
        with translated(method.__name__):
            return await method(*arguments, **named)

    return called
