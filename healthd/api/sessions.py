"""The log-ins of pages, for an admin: who has one, and how to end it."""

from typing import Annotated, Any

from litestar import Controller, Request, delete, get
from litestar.exceptions import NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from healthd.api import schemas
from healthd.api.services import House


class SessionController(Controller):
    """Everything under `/api/v1/sessions`."""

    path = "/sessions"
    tags = ("auth",)
    opt = {"scope": "admin"}  # noqa: RUF012  as Litestar has it

    @get("/", summary="Log-ins of pages")
    async def sessions(self, services: House, request: Request[Any, Any, Any]) -> list[schemas.PageLogIn]:
        """Every log-in that has not ended, in the order of their beginning."""
        sessions = services.auth.sessions
        own = services.auth.page_session(request.headers, request.cookies)
        watching = [viewer.page.session_id for viewer in services.viewers if viewer.page is not None]
        return [
            schemas.PageLogIn(
                id=log_in.page.session_id,
                name=log_in.identity.name,
                scope=log_in.identity.scope,
                client=log_in.client,
                since=log_in.since,
                expires_in_seconds=sessions.seconds_left(log_in),
                idle_seconds=sessions.idle_seconds(log_in),
                viewers=watching.count(log_in.page.session_id),
                own=own is not None and own.session_id == log_in.page.session_id,
            )
            for log_in in sessions
        ]

    @delete("/", status_code=200, summary="End all log-ins of a key")
    async def end_of_key(
        self,
        services: House,
        key: Annotated[str, Parameter(description="Name of the key.", min_length=1, max_length=64)],
    ) -> schemas.Ended:
        """End every log-in that was begun with a key, with all that they have opened."""
        return schemas.Ended(services.auth.sessions.close_where(lambda log_in: log_in.identity.name == key))

    @delete(
        "/{session_id:str}",
        status_code=204,
        summary="End a log-in",
        responses={404: ResponseSpec(schemas.Error, description="No such log-in.")},
    )
    async def end(self, services: House, session_id: Annotated[str, Parameter(description="Id of a log-in.")]) -> None:
        """End one log-in, with all that it has opened."""
        if not services.auth.sessions.close_where(lambda log_in: log_in.page.session_id == session_id):
            raise NotFoundException("unknown session", extra={"session": session_id[:80]})
