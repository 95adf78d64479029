"""Models: which a request may name, what is loaded, and orders to load or to unload."""

from collections.abc import Iterable
from typing import Annotated

from litestar import Controller, delete, get, post
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from healthd.api import schemas, shapes
from healthd.api.infer_schemas import Labels, ModelInfo, Unloaded
from healthd.api.methods import UNLISTED
from healthd.api.services import House, Services
from healthd.models.catalog import Entry
from healthd.models.model import InferenceParams
from healthd.models.shared import LoadedModel

MODEL_ID = Parameter(description="A model, as the list names it; it may have slashes in it.")
UNKNOWN = ResponseSpec(schemas.Error, description="Unknown model.")
BUSY = ResponseSpec(schemas.Error, description="No room to load it, or a disk that does not answer; see `Retry-After`.")
FAILED = ResponseSpec(schemas.Error, description="The model cannot be loaded.")
IN_USE = ResponseSpec(schemas.Error, description="A camera, a request or `models.preload` holds it.")
NOT_LOADED = ResponseSpec(schemas.Error, description="It is not loaded, and looking loads none.")
_LOAD = "/load"


class ModelController(Controller):
    """Everything under `/api/v1/models`. The router gives the rest of a path, slashes and all, to one handler."""

    path = "/models"
    tags = ("models",)

    @get("/", summary="Models that a request may name", responses={503: BUSY})
    async def models(self, services: House) -> list[ModelInfo]:
        """All of them, those of the configuration first, and what is known of those that are loaded."""
        return await infos(services)

    @get("/{model_id:path}", summary="One model", responses={404: UNKNOWN, 503: BUSY})
    async def model(self, services: House, model_id: Annotated[str, MODEL_ID]) -> ModelInfo:
        """One of them."""
        return await _told(services, _plain(model_id))

    @post(
        "/{model_id:path}/load",
        status_code=200,
        summary="Load a model",
        responses={404: UNKNOWN, 502: FAILED, 503: BUSY},
    )
    async def load(self, services: House, model_id: Annotated[str, MODEL_ID]) -> ModelInfo:
        """Load a model now, also when its last load has failed a moment ago; answers when it is loaded and warm."""
        return await _loaded(services, _name(model_id))  # for the description: `order` is what is called

    @post("/{model_id:path}", status_code=200, include_in_schema=False, opt={UNLISTED: True})
    async def order(self, services: House, model_id: Annotated[str, MODEL_ID]) -> ModelInfo:
        """What the router makes of an order to load."""
        name = _name(model_id)
        if not name.endswith(_LOAD):
            raise MethodNotAllowedException
        return await _loaded(services, name.removesuffix(_LOAD))

    @delete(
        "/{model_id:path}",
        status_code=200,
        summary="Unload a model",
        responses={404: UNKNOWN, 409: IN_USE, 503: BUSY},
    )
    async def unload(self, services: House, model_id: Annotated[str, MODEL_ID]) -> Unloaded:
        """Give its memory back; it is loaded again by whoever asks for it next."""
        name = _plain(model_id)
        return Unloaded(id=name, unloaded=await services.inference.unload(name))


@get(
    "/labels",
    summary="Classes of a model",
    tags=["models"],
    responses={404: UNKNOWN, 409: NOT_LOADED, 503: BUSY},
)
async def labels(
    services: House,
    model: Annotated[
        str | None, Parameter(min_length=1, max_length=500, description="A model; absent: the default one.")
    ] = None,
) -> Labels:
    """Names by class id, empty for a model that knows none. Loads no model: 409 where it is not loaded."""
    entry, names = await services.inference.labels(model)
    return Labels(model=entry.model_id, labels=names)


async def infos(services: Services) -> list[ModelInfo]:
    """Shape all models that a request may name."""
    return [_shape(services, entry) for entry in await services.inference.entries()]


def _name(path: str) -> str:
    return str(path).removeprefix("/")


def _plain(path: str) -> str:
    """Return the id in a path that is no order to load; below `/load` there is nothing to see."""
    name = _name(path)
    if name.endswith(_LOAD):
        raise MethodNotAllowedException
    return name


async def _loaded(services: Services, name: str) -> ModelInfo:
    return _shape(services, await services.inference.load(name))


async def _told(services: Services, name: str) -> ModelInfo:
    for entry in await services.inference.entries():
        if entry.model_id == name:
            return _shape(services, entry)
    raise NotFoundException("unknown model", extra={"model": name[:200]})


def _shape(services: Services, entry: Entry) -> ModelInfo:
    variants = [one for one in services.models.loaded() if one.family == entry.family and entry.spec_id in one.names]
    loading = services.models.is_loading(entry.family, entry.spec_id)
    reason = None if variants else _failure(services, entry)
    first = variants[0] if variants else None
    state = "loaded" if first else "loading" if loading else "failed" if reason is not None else "available"
    return ModelInfo(
        id=entry.model_id,
        family=entry.family,
        state=state,
        reason=reason,
        task=first.task if first else None,
        labels=first.classes if first else None,
        memory_bytes=_memory(variants),
        load_seconds=round(first.load_seconds, 3) if first else None,
        batch_size=first.batch_size if first else None,
        predictions=sum(one.predictions for one in variants),
        last_used_age_seconds=round(min(one.last_used_age_seconds for one in variants), 3) if variants else None,
        users=sum(one.users for one in variants),
        waiting=sum(one.waiting for one in variants),
        cameras=list(entry.cameras),
        pinned=entry.pinned,
    )


def _memory(variants: Iterable[LoadedModel]) -> int | None:
    known = [one.memory_bytes for one in variants if one.memory_bytes is not None]
    return sum(known) if known else None


def _failure(services: Services, entry: Entry) -> str | None:
    """Return why the last load failed, while that is remembered."""
    try:
        options = services.models.families[entry.family].options_for(InferenceParams())
    except Exception:  # noqa: BLE001  a plugin's own code; it has no models that could have failed
        return None
    failed = services.models.failure(entry.family, entry.spec_id, options)
    return None if failed is None else shapes.reason(failed.error)
