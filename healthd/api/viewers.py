"""Viewers: the open streams, and how to end one."""

from typing import Annotated

from litestar import Controller, delete, get
from litestar.exceptions import NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from healthd.api import schemas
from healthd.api.services import House, Services
from healthd.cameras.viewers import EndReason


class ViewerController(Controller):
    """Everything under `/api/v1/viewers`."""

    path = "/viewers"
    tags = ("viewers",)

    @get("/", summary="Open streams")
    async def viewers(self, services: House) -> list[schemas.Viewer]:
        """Every open stream, in the order of their opening."""
        return viewers_of(services)

    @delete(
        "/{viewer_id:str}",
        status_code=204,
        summary="End a stream",
        responses={404: ResponseSpec(schemas.Error, description="No such stream.")},
    )
    async def end(
        self, services: House, viewer_id: Annotated[str, Parameter(description="Id of an open stream.")]
    ) -> None:
        """End one stream cleanly; its viewer may open another."""
        viewer = services.viewers.get(viewer_id)
        if viewer is None:
            raise NotFoundException("unknown viewer", extra={"viewer": viewer_id[:80]})
        viewer.end(EndReason.ADMIN)


def viewers_of(services: Services) -> list[schemas.Viewer]:
    """Shape all open streams."""
    now = services.clock.monotonic()
    return [
        schemas.Viewer(
            id=viewer.viewer_id,
            kind=viewer.kind,
            camera=viewer.camera,
            client=viewer.client,
            since=viewer.since,
            sent=viewer.sent,
            skipped=viewer.skipped,
            quality=viewer.quality,
            last_write_age_ms=round((now - viewer.last_write_at) * 1000, 1),
        )
        for viewer in services.viewers
    ]
