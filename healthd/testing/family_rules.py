"""The conformance suite of a family of models: what healthd promises to its users, tried on one model."""

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from healthd.errors import HealthdError, ModelError, SettingsError
from healthd.frames import Image
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelSpec, Prediction
from healthd.testing.case import FamilyCase, importable_name
from healthd.testing.elsewhere import IN_A_TEST, ask_elsewhere, check_import
from healthd.testing.envelope import check_prediction, differ
from healthd.testing.lane import Lane
from healthd.testing.rules import Broken, NotTried, Rule, as_json, check_constructor, check_options
from healthd.testing.watch import held, leaked, printed, resident_bytes, words_of

SIZES = ((240, 320), (480, 640), (1080, 1920), (333, 77), (32, 900))
"""Height and width of the pictures that every model must take."""
TINY = ((1, 1), (2, 3))
EVERYTHING = InferenceParams(confidence=0.001)
SURE = 0.4
"""Results that are less confident may come and go with the size of a picture, or with its batch."""
LOAD_SECONDS = 120.0
LOADS = 3
KEPT_BYTES = 3 << 20
"""Memory that each load and close may leave behind: so much is noise of the C library."""


@contextmanager
def loaded(case: FamilyCase, spec: ModelSpec | None = None) -> Iterator[tuple[Model, Lane]]:
    """Load the model on a thread, as the daemon does; close it at the end."""
    lane = Lane("model")
    try:
        model = _loaded(case.family(), spec or case.spec(), lane)
        try:
            yield model, lane
        except BaseException:
            lane.begin(model.close)
            raise
        lane.call(model.close, seconds=10, what="close()")
    finally:
        lane.close()


def _loaded(family: ModelFamily, spec: ModelSpec, lane: Lane) -> Model:
    try:
        model: object = lane.call(lambda: family.load(spec), seconds=LOAD_SECONDS, what="load()")
    except (HealthdError, Broken):
        raise
    except Exception as exc:
        raise Broken(
            f"load() raised {type(exc).__name__}: {exc}",
            "raise SettingsError for what can never be loaded, ModelError for what cannot be loaded now",
        ) from exc
    if not isinstance(model, Model):
        raise Broken(f"load() returned {type(model).__name__}, not a Model", "return a healthd.models.model.Model")
    return model


def predicted(case: FamilyCase, model: Model, lane: Lane, image: Image, params: InferenceParams) -> Prediction:
    """Predict on the thread; what is wrong with the answer is `Broken`."""
    return _checked(lane.begin(lambda: model.predict(image, params)), case, model, image, params)


def _checked(
    answer: "Future[Prediction]", case: FamilyCase, model: Model, image: Image, params: InferenceParams
) -> Prediction:
    height, width = image.shape[:2]
    try:
        said = answer.result(timeout=case.predict_timeout_seconds)
    except (ModelError, Broken):
        raise
    except TimeoutError as exc:
        raise Broken(
            f"predict() gave no answer within {case.predict_timeout_seconds:g} s", "answer, or raise ModelError"
        ) from exc
    except Exception as exc:
        raise Broken(
            f"predict() raised {type(exc).__name__} on a picture of {width}x{height}: {exc}",
            "raise ModelError for a picture that it cannot do; the image is read-only: copy it before you change it",
        ) from exc
    return check_prediction(said, image, params, model.labels)


def _picture(case: FamilyCase, size: tuple[int, int], seed: int = 0) -> Image:
    """Return the case's picture in this size, or noise; read-only, as the daemon gives it."""
    if case.picture is not None:
        image = cv2.resize(case.picture, (size[1], size[0]), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    else:
        image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    image.flags.writeable = False
    return image


def imports(case: FamilyCase) -> None:
    """Its import does nothing but define: it prints nothing, and changes nothing that belongs to the whole process."""
    check_import(importable_name(case.plugin), family=True)


def documented(case: FamilyCase) -> None:
    """Each option is described, unknown ones are refused, and equal ones can be found equal."""
    model = case.family_class().options_model
    check_options(model, case.options)
    try:
        hash(case.spec().options)
    except TypeError as exc:
        raise Broken(f"{model.__name__} cannot be hashed: {exc}", "use tuples in place of lists and dicts") from exc


def constructed(case: FamilyCase) -> None:
    """The constructor does nothing: no connection, no thread, no file, no time."""
    check_constructor(case.family, "do it in load()")


def elsewhere(case: FamilyCase) -> None:
    """It can be made again in another process."""
    plugin = importable_name(case.plugin)
    if plugin is None:
        raise NotTried(IN_A_TEST)
    asked = {"plugin": plugin, "family": True, "model": case.model, "options": dict(case.options)}
    there = ask_elsewhere({**asked, "models_directory": str(case.models_directory)})
    if there["options"] != case.spec().options.model_dump_json():
        raise Broken("in another process its options are others", "make them from what is configured alone")


def serves(case: FamilyCase) -> None:
    """It says of any name whether it serves it, by the name alone."""
    family = case.family()
    for name in (case.model, f"no/such/place/{Path(case.model).name}", "", "x", "a b\n", "\u2713" * 300, ".", "/"):
        try:
            said: object = family.serves(name)
        except Exception as exc:
            raise Broken(f"serves({name[:40]!r}) raised {type(exc).__name__}: {exc}", "return False") from exc
        if not isinstance(said, bool):
            raise Broken(f"serves({name[:40]!r}) returned {type(said).__name__}", "return True or False")
    if not family.serves(case.model):
        raise Broken(f"serves({case.model!r}) says no", "say yes to the names of your models, as files or as paths")


def loads(case: FamilyCase) -> None:
    """It loads a model that knows its task and its labels, and closes it."""
    estimate = case.family().estimate_bytes(case.spec())
    if estimate is not None and (not isinstance(estimate, int) or estimate < 0):
        raise Broken(f"estimate_bytes() returned {estimate!r}", "return a number of bytes, or None")
    with loaded(case) as (model, lane):
        lane.call(model.warm_up, seconds=case.predict_timeout_seconds, what="warm_up()")
        _check_facts(model)


def _check_facts(model: Model) -> None:
    task, labels = getattr(model, "task", None), getattr(model, "labels", None)
    if not isinstance(task, str) or not task:
        raise Broken(f"its `task` is {task!r}", "say what it does, e.g. `detect`")
    if not isinstance(labels, Mapping) or not all(isinstance(key, int) for key in labels):
        raise Broken("its `labels` are no mapping from class id to name", "give {0: 'person', ...}, or {} for none")
    as_json(list(labels.items()), "its `labels`")
    for name in ("concurrency", "batch_size"):
        count = getattr(model, name)
        if not isinstance(count, int) or count < 1:
            raise Broken(f"its `{name}` is {count!r}", "give a number from 1 on")
    size = model.memory_bytes
    if size is not None and (not isinstance(size, int) or size < 0):
        raise Broken(f"its `memory_bytes` are {size!r}", "give a number of bytes, or None")


def refuses(case: FamilyCase) -> None:
    """A file that is missing or no model is refused with SettingsError or ModelError, in words."""
    suffix = Path(case.model).suffix
    with tempfile.TemporaryDirectory() as folder:
        missing, garbage = Path(folder) / f"gone{suffix}", Path(folder) / f"garbage{suffix}"
        garbage.write_bytes(np.random.default_rng(1).bytes(5000))
        for path in (missing, garbage):
            _refuses(case, path)


def _refuses(case: FamilyCase, path: Path) -> None:
    try:
        with loaded(case, case.spec(path)):
            pass
    except (SettingsError, ModelError) as exc:
        if not str(exc).strip():
            raise Broken(f"of {path.name} it raised {type(exc).__name__} without a word", "say what is wrong") from exc
        return
    if case.spec().path is None:
        raise NotTried("its models are no files")
    raise Broken(f"it loaded {path.name}, which is no model", "raise SettingsError, with what to do")


def sizes(case: FamilyCase) -> None:
    """It predicts on pictures of any size, in an envelope that is as it should be."""
    with loaded(case) as (model, lane):
        for size in SIZES:
            predicted(case, model, lane, _picture(case, size), EVERYTHING)


def tiny(case: FamilyCase) -> None:
    """A tiny picture is predicted or refused with ModelError, and the model stays usable."""
    with loaded(case) as (model, lane):
        for size in TINY:
            try:
                predicted(case, model, lane, _picture(case, size), EVERYTHING)
            except ModelError as exc:
                if not str(exc).strip():
                    raise Broken("it raised ModelError without a word", "say what is wrong") from exc
            predicted(case, model, lane, _picture(case, SIZES[0]), EVERYTHING)


def obeys(case: FamilyCase) -> None:
    """It keeps to the confidence and the number of results that are asked for."""
    with loaded(case) as (model, lane):
        image = _picture(case, SIZES[1])
        for params in (InferenceParams(confidence=0.6), InferenceParams(confidence=0.001, max_det=1)):
            predicted(case, model, lane, image, params)


def pixels(case: FamilyCase) -> None:
    """Its boxes are in pixels of the picture given: in one twice as large, they are twice as large."""
    if case.picture is None:
        raise NotTried("it needs a picture in which the model finds something")
    height, width = case.picture.shape[:2]
    small, large = (_picture(case, (height * by, width * by)) for by in (1, 2))
    with loaded(case) as (model, lane):
        first = predicted(case, model, lane, small, InferenceParams(confidence=0.25))
        if not any(one.confidence >= SURE for one in first.results):
            raise NotTried(f"it is sure of nothing in the picture; give one in which it finds something ({SURE:g} on)")
        second = predicted(case, model, lane, large, InferenceParams(confidence=0.05))
    told = differ(first, second, scale=2, at_least=0.5, confidence=SURE)
    if told:
        raise Broken(f"in the same picture, twice as large: {told}", "scale boxes back to pixels of the image given")


def _asked(case: FamilyCase) -> list[Image]:
    return [_picture(case, size, seed) for seed, size in enumerate(SIZES[:4])]


def threads(case: FamilyCase) -> None:
    """It says the same on whatever thread it is called, on as many at a time as its `concurrency` says."""
    params = InferenceParams(confidence=0.05)
    with loaded(case) as (model, lane):
        asked = _asked(case)
        alone = [predicted(case, model, lane, image, params) for image in asked]
        lanes = [Lane(f"predict-{number}") for number in range(max(2, min(model.concurrency, 4)))]
        try:
            for _ in range(3):
                for mine, said in zip(alone, _together(case, model, lanes, asked, params), strict=True):
                    _same(mine, said)
        except Broken as exc:
            raise Broken(
                f"called on {len(lanes)} threads{' at a time' if model.concurrency > 1 else ', in turn'}: {exc}",
                "keep nothing of a prediction in `self` nor of its thread; `concurrency` says how many may call",
            ) from exc.__cause__
        finally:
            for one in lanes:
                one.close()


def _together(
    case: FamilyCase, model: Model, lanes: list[Lane], asked: list[Image], params: InferenceParams
) -> Iterator[Prediction]:
    at_a_time = len(lanes) if model.concurrency > 1 else 1
    for start in range(0, len(asked), at_a_time):
        group = asked[start : start + at_a_time]
        workers = lanes if at_a_time > 1 else [lanes[start % len(lanes)]]
        answers = [
            lane.begin(lambda image=image: model.predict(image, params))  # type: ignore[misc]
            for lane, image in zip(workers, group, strict=False)
        ]
        for answer, image in zip(answers, group, strict=True):
            yield _checked(answer, case, model, image, params)


def _same(one: Prediction, other: Prediction) -> None:
    told = differ(one, other, at_least=0.9, confidence=SURE) or differ(other, one, at_least=0.9, confidence=SURE)
    if told:
        raise Broken(told, "say the same of the same picture")


def batches(case: FamilyCase) -> None:
    """predict_batch says of each image what predict says of it, in their order."""
    params = InferenceParams(confidence=0.05)
    with loaded(case) as (model, lane):
        if model.batch_size < 2:
            raise NotTried("it takes one picture at a time (`batch_size` 1)")
        asked = (_asked(case) * model.batch_size)[: min(model.batch_size, 4)]
        alone = [predicted(case, model, lane, image, params) for image in asked]
        said = lane.call(
            lambda: list(model.predict_batch(asked, [params] * len(asked))),
            seconds=case.predict_timeout_seconds,
            what="predict_batch()",
        )
    if len(said) != len(asked):
        raise Broken(f"predict_batch answers {len(said)} times for {len(asked)} images", "answer once for each")
    for number, (mine, answer) in enumerate(zip(alone, said, strict=True)):
        if isinstance(answer, Exception):
            raise Broken(f"image {number} of a batch failed: {answer!r}", "answer as predict() does") from answer
        try:
            _same(mine, check_prediction(answer, asked[number], params, model.labels))
        except Broken as exc:
            raise Broken(
                f"image {number} of a batch: {exc}", "answer in the order of the images, as predict() does"
            ) from None


def gives_back(case: FamilyCase) -> None:
    """close() gives back memory, threads and files."""
    image = _picture(case, SIZES[1])

    def once() -> None:
        with loaded(case) as (model, lane):
            predicted(case, model, lane, image, EVERYTHING)

    once()
    once()
    before, memory = held(), resident_bytes()
    for _ in range(LOADS):
        once()
    told = leaked(before, by=max(2, LOADS // 2))
    kept = 0 if memory is None else ((resident_bytes() or memory) - memory) // LOADS
    if told:
        raise Broken(f"after {LOADS} loads there are {told}", "end what load() began in close()")
    if kept > KEPT_BYTES:
        raise Broken(
            f"each load leaves {kept / 1e6:.0f} MB behind after close()", "drop all references to the model in close()"
        )


def quiet(case: FamilyCase) -> None:
    """It prints nothing; what it has to say it logs or raises."""
    with printed() as seen, loaded(case) as (model, lane):
        lane.call(model.warm_up, seconds=case.predict_timeout_seconds, what="warm_up()")
        predicted(case, model, lane, _picture(case, SIZES[0]), EVERYTHING)
    if words := words_of(seen):
        raise Broken(f"it printed {words[:200]!r}", "use `logging`: healthd puts it in its log, without secrets")


FAMILY_RULES: tuple[Rule[FamilyCase], ...] = (
    Rule("imports-cleanly", imports, opens=False),
    Rule("options-documented", documented, opens=False),
    Rule("constructor-does-nothing", constructed, opens=False),
    Rule("made-again-elsewhere", elsewhere, opens=False),
    Rule("serves-by-name", serves, opens=False),
    Rule("loads", loads),
    Rule("refuses-what-is-no-model", refuses, opens=False),
    Rule("pictures-of-any-size", sizes),
    Rule("tiny-pictures", tiny),
    Rule("obeys-parameters", obeys),
    Rule("boxes-in-pixels", pixels),
    Rule("threads", threads),
    Rule("batches", batches),
    Rule("gives-back", gives_back),
    Rule("prints-nothing", quiet),
)
