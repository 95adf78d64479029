"""How a camera did in the last minutes."""

from dataclasses import asdict
from typing import Annotated

from litestar import get
from litestar.params import Parameter

from healthd.api.cameras import ERROR, NAME, find
from healthd.api.panel_schemas import History, HistoryPoint
from healthd.api.services import House, Services
from healthd.cameras.history import INTERVAL_SECONDS

AFTER = Parameter(ge=0, schema_extra={"minimum": 0}, description="Only points behind this id.")


@get("/cameras/{name:str}/history", summary="The last minutes of a camera", tags=["cameras"], responses={404: ERROR})
async def history(
    services: House,
    name: Annotated[str, NAME],
    after: Annotated[int, AFTER] = 0,
) -> History:
    """Rates, prediction time, age and drops: a point every five seconds, for five minutes."""
    find(services, name)
    return history_of(services, name, after=after)


def history_of(services: Services, name: str, *, after: int = 0) -> History:
    """Shape the history of a camera that is known."""
    points = []
    for point in services.history.points(name, after=after):
        told = asdict(point)
        points.append(HistoryPoint(id=told.pop("point_id"), **told))
    return History(name, INTERVAL_SECONDS, points)
