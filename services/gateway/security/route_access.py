"""What each route requires before any of its body is read: a role, and limits on the body."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import Match

from accelerator_autopilot.gateway.application.job_submission import submit_for
from accelerator_autopilot.gateway.http.problem_details import problem
from accelerator_autopilot.gateway.http.request_bodies import SMALL_BODY, JsonRequest
from accelerator_autopilot.gateway.security.key_file import Role
from accelerator_autopilot.gateway.security.roles import RoleCheck


class GuardedRoute(APIRoute):
    """A route whose body is validated while parsing, and that formats the guard's rejections in its own way."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return checked

    @staticmethod
    def refusal(status: int, detail: str) -> Response:
        """Return the response to a rejected caller."""
        return problem(status, detail)


@dataclass(frozen=True)
class Access:
    """The requirements of one route."""

    path: str
    least: Role | None
    most_bytes: int
    refusal: Callable[[int, str], Response]


class AccessTable:
    """Every route of some routers, in order."""

    def __init__(self, routers: Iterable[APIRouter], *, most_bytes: int, public: frozenset[str]) -> None:
        self._small = min(SMALL_BODY, most_bytes)
        self._public = public
        self._routes = [
            (route, self._of(route, most_bytes))
            for router in routers
            for route in router.routes
            if isinstance(route, APIRoute)
        ]

    def of(self, scope: MutableMapping[str, Any]) -> Access:
        """Return the requirements of a request's route; an unknown path still requires a key."""
        for route, access in self._routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return access
        if scope["path"] in self._public:
            return Access(scope["path"], None, 0, problem)
        return Access("unknown", Role.viewer, self._small, problem)

    def _of(self, route: APIRoute, most_bytes: int) -> Access:
        calls = list(_calls(route.dependant))
        least = max((c.least for c in calls if isinstance(c, RoleCheck)), default=Role.admin)
        refusal = route.refusal if isinstance(route, GuardedRoute) else problem
        return Access(route.path, least, most_bytes if submit_for in calls else self._small, refusal)


def _calls(dependant: Dependant) -> Iterator[Any]:
    for inner in dependant.dependencies:
        yield inner.call
        yield from _calls(inner)
