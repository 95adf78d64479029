"""The conformance suite of a camera source: what healthd promises to its users, tried on one plugin."""

import hashlib
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from healthd.cameras.source import CameraSource
from healthd.errors import CameraError, EndOfStream, HealthdError, SettingsError
from healthd.redact import SourceUrl
from healthd.testing.case import SourceCase, importable_name
from healthd.testing.elsewhere import IN_A_TEST, ask_elsewhere, check_import
from healthd.testing.rules import Broken, NotTried, Rule, as_json, check_constructor, check_options
from healthd.testing.session import Session, Taken, opened
from healthd.testing.source_model import predicts
from healthd.testing.watch import held, leaked, printed, words_of

IMAGES = 8
READ_SECONDS = 6.0
"""So long images are waited for at most, unless a single one takes longer."""
BURST_IMAGES, BURST_SECONDS = 60, 0.12
"""So many images in so little time come from no camera."""
OLD_IMAGES = 4
"""So many a device keeps in its driver, and nobody can help it."""
REOPENINGS = 6
LONGEST_RECORDING_SECONDS = 15.0
GIVE_UP_SECONDS = 3.0


def imports(case: SourceCase) -> None:
    """Its import does nothing but define: it prints nothing, and changes nothing that belongs to the whole process."""
    check_import(importable_name(case.plugin), family=False)


def documented(case: SourceCase) -> None:
    """Each setting is described, unknown ones are refused."""
    check_options(case.source_class().options_model, case.options)


def constructed(case: SourceCase) -> None:
    """The constructor does nothing: no connection, no thread, no file, no time."""
    source = check_constructor(lambda: case.make(case.url), "do it in camera(), where it may be retried")
    if source.model_id is not None and not isinstance(source.model_id, str):
        raise Broken(f"model_id is {type(source.model_id).__name__}", "return the name of the model, or None")
    if not isinstance(source.recording, bool):
        raise Broken(f"recording is {type(source.recording).__name__}", "return True or False")


def opens(case: SourceCase) -> None:
    """It opens, delivers an image, and closes."""
    with opened(case.make(case.url)) as session:
        session.image()


def elsewhere(case: SourceCase) -> None:
    """It can be made again in another process, from its name and settings alone."""
    plugin = importable_name(case.plugin)
    if plugin is None:
        raise NotTried(IN_A_TEST)
    here = case.make(case.url)
    url = None if case.url is None else case.url.reveal()
    asked = {"plugin": plugin, "family": False, "url": url, "options": dict(case.options)}
    there = ask_elsewhere({**asked, "models_directory": str(case.models_directory)})
    for what, mine in (
        ("options", here.options.model_dump_json()),
        ("recording", here.recording),
        ("model_id", here.model_id),
    ):
        if there[what] != mine:
            raise Broken(
                f"in another process its {what} is {there[what]}, here {mine}",
                "make it from name, url and options alone",
            )


def images(case: SourceCase) -> None:
    """Its images are uint8 (height, width, 3), and their positions go forward."""
    with opened(case.make(case.url)) as session:
        taken = session.images(IMAGES, seconds=READ_SECONDS)
    positions = [one.position_seconds for one in taken if one.position_seconds is not None]
    as_json(positions, "position_seconds")
    if case.make(case.url).recording and any(b < a for a, b in pairwise(positions)):
        raise Broken(f"position_seconds goes back: {positions}", "say where in the recording the image stands")


def untouched(case: SourceCase) -> None:
    """An image that was given out is never written to again."""
    with opened(case.make(case.url)) as session:
        kept: list[tuple[Taken, str]] = []
        until = time.monotonic() + READ_SECONDS
        while len(kept) < IMAGES and (time.monotonic() < until or not kept):
            try:
                taken = session.image()
            except EndOfStream:
                break
            except Broken as exc:
                if isinstance(exc.__cause__, ValueError) and "read-only" in str(exc.__cause__):
                    raise _written_to(len(kept)) from exc
                raise
            kept.append((taken, _digest(taken)))
        changed = sum(_digest(taken) != digest for taken, digest in kept)
    if changed:
        raise _written_to(changed)


def _written_to(count: int) -> Broken:
    return Broken(
        f"{count} of its images changed after they were given out",
        "give each image an array of its own, or return a view of the buffer that you fill again",
    )


def _digest(taken: Taken) -> str:
    return hashlib.blake2b(taken.image.tobytes(), digest_size=16).hexdigest()


def rate(case: SourceCase) -> None:
    """A live camera is read at its rate: read() waits for the next image."""
    source = case.make(case.url)
    if source.recording and case.fps is None:
        raise NotTried("a recording is read as fast as healthd takes it")
    with opened(source) as session:
        session.images(2, seconds=READ_SECONDS)  # what waited from before it was opened
        if not source.recording:
            _waits(session)
        if case.fps is not None:
            _keeps_its_rate(session, case.fps)


def _waits(session: Session) -> None:
    """Raise `Broken` if images come as fast as they are asked for; two of three times, for a moment may be odd."""
    for _ in range(2):
        counts = [session.burst(BURST_IMAGES, seconds=BURST_SECONDS) for _ in range(2)]
        if max(counts) < BURST_IMAGES:
            return
        if min(counts) == BURST_IMAGES:
            break
    raise Broken(
        f"it delivers {BURST_IMAGES} images in {BURST_SECONDS:g} s, and would take a whole core",
        "wait in read() until there is a new image; a recording says `recording = True`",
    )


def _keeps_its_rate(session: Session, wanted: float) -> None:
    count = max(IMAGES, int(wanted / 2))
    began = time.monotonic()
    taken = session.images(count, seconds=max(1.0, 2 * count / wanted))
    fps = len(taken) / max(taken[-1].at - began, 1e-6)
    if not wanted / 2 <= fps <= wanted * 2:
        raise Broken(f"it delivers {fps:.1f} images a second, not {wanted:g}", "wait in read() for the next image")


def ends(case: SourceCase) -> None:
    """A recording ends with EndOfStream, also when asked again, and begins anew; a live camera goes on."""
    source = case.make(case.url)
    with opened(source) as session:
        if not source.recording:
            session.images(IMAGES, seconds=READ_SECONDS)
            return
        until, count = time.monotonic() + LONGEST_RECORDING_SECONDS, 0
        try:
            while time.monotonic() < until:
                session.image()
                count += 1
        except EndOfStream:
            _ended(session)
        else:
            raise NotTried(f"{count} images in {LONGEST_RECORDING_SECONDS:g} s and no end; give it a shorter recording")
    with opened(source) as session:
        session.images(1, seconds=READ_SECONDS)


def _ended(session: Session) -> None:
    try:
        session.image()
    except EndOfStream:
        return
    except CameraError as exc:
        raise Broken(f"after its end it raised {type(exc).__name__}: {exc}", _KEEP_ENDING) from exc
    raise Broken("after its end it delivered another image", _KEEP_ENDING)


_KEEP_ENDING = "raise EndOfStream whenever it is read after its end"


def slow_reader(case: SourceCase) -> None:
    """Who reads slowly gets new images, not old ones that have piled up."""
    source = case.make(case.url)
    with opened(source) as session:
        taken = session.images(6, seconds=READ_SECONDS)
        if source.recording or len(taken) < 3:
            time.sleep(0.2)
            if len(taken) >= 6:
                session.images(1, seconds=READ_SECONDS)
            return
        interval = median(after.at - before.at for before, after in pairwise(taken[1:]))
        pause = min(max(1.0, 12 * interval), 3.0)
        time.sleep(pause)
        missed, old = pause / max(interval, 1e-3), 0
        while old <= missed:
            began = time.monotonic()
            if session.image().at - began > interval / 2:
                break
            old += 1
    if old > max(OLD_IMAGES, missed / 2):
        raise Broken(
            f"after a pause of {pause:.1f} s it delivered {old} images at once: they had piled up, and are old",
            "drop what has piled up, or return None for it: a picture must never be older than it looks",
        )


def fails(case: SourceCase) -> None:
    """What goes wrong is CameraError where it may pass, SettingsError where it will not, in time and in words."""
    gone = case.somewhere_else()
    if case.url is None and gone is None:
        raise NotTried("it has no url; name a `gone_url` if there is an address at which it fails")
    if case.url is not None:
        _fails_without_url(case)
    if gone is not None:
        _fails_where_nothing_is(case, gone)


def _fails_without_url(case: SourceCase) -> None:
    exc = _failure(case, None)
    if exc is not None and not isinstance(exc, SettingsError):
        raise Broken(
            f"without a url it raised {type(exc).__name__}: {exc}",
            "raise SettingsError: a setting that is missing does not come by itself",
        ) from exc


def _fails_where_nothing_is(case: SourceCase, url: SourceUrl) -> None:
    exc = _failure(case, url)
    if exc is None:
        raise Broken(f"it delivers images from {url}, where no camera is", "raise CameraError, with the reason")
    if isinstance(exc, SettingsError) and url.path is None and url.scheme != "file":
        raise Broken(
            f"where no camera answers it raised SettingsError: {exc}",
            "raise CameraError: a camera that is off comes back, and must then be opened",
        ) from exc


def _failure(case: SourceCase, url: SourceUrl | None) -> HealthdError | None:
    """Return what an attempt to open and read raised; None: it did not fail."""
    try:
        in_time = min(GIVE_UP_SECONDS, case.open_timeout_seconds)
        with opened(case.make(url, open_timeout_seconds=in_time)) as session:
            session.image()
    except HealthdError as exc:
        if not str(exc).strip():
            raise Broken(
                f"it raised {type(exc).__name__} without a word", "say what went wrong: people read it"
            ) from exc
        return exc
    return None


def left_early(case: SourceCase) -> None:
    """It can be closed before anything was read, and in the middle."""
    source = case.make(case.url)
    for count in (0, 1):
        with opened(source) as session:
            if count:
                session.image()


def left_late(case: SourceCase) -> None:
    """A session that was given up, and comes back late, does not hurt the next one of the same source."""
    source = case.make(case.url)
    stuck, fresh = Session(source), Session(source)
    try:
        stuck.open()
        stuck.image()
        try:
            fresh.open()
        except CameraError:
            stuck.leave()
            return  # it can be opened once only, and says so
        fresh.image()
        try:
            fresh.image_while(stuck.leave)
            fresh.image()
        except EndOfStream:
            if not source.recording:
                raise
        fresh.leave()
    except (HealthdError, Broken) as exc:
        told = f"{type(exc).__name__}: {exc}" if isinstance(exc, HealthdError) else str(exc)
        raise Broken(
            f"two sessions at once, the older closed while the newer is read: {told}",
            "keep what belongs to a session in local variables of camera(), not in `self`",
        ) from exc
    finally:
        stuck.end()
        fresh.end()


def reopens(case: SourceCase) -> None:
    """Opened and closed many times, it leaves no thread, file descriptor or process behind."""
    source = case.make(case.url)

    def once() -> None:
        with opened(source) as session:
            session.image()

    once()
    once()
    before = held()
    for _ in range(REOPENINGS):
        once()
    told = leaked(before, by=REOPENINGS // 2)
    if told:
        raise Broken(
            f"after {REOPENINGS} sessions there are {told}",
            "close it in the `finally` of camera(), and end its threads and processes",
        )


def quiet(case: SourceCase) -> None:
    """It prints nothing; what it has to say it logs or raises."""
    gone = case.somewhere_else()
    with printed() as seen:
        with opened(case.make(case.url)) as session:
            session.images(3, seconds=READ_SECONDS)
        if gone is not None:
            _failure(case, gone)
    if words := words_of(seen):
        raise Broken(f"it printed {words[:200]!r}", "use `logging`: healthd puts it in its log, without secrets")


def model(case: SourceCase) -> None:
    """Its model predicts on its images, without the object that opened the camera, and is given back."""
    with opened(case.make(case.url)) as session:
        image = session.image().image
    predicts(case.make(case.url), image, models_directory=Path(case.models_directory))


SOURCE_RULES: tuple[Rule[SourceCase], ...] = (
    Rule("imports-cleanly", imports, opens=False),
    Rule("settings-documented", documented, opens=False),
    Rule("constructor-does-nothing", constructed, opens=False),
    Rule("opens", opens),
    Rule("made-again-elsewhere", elsewhere),
    Rule("images", images),
    Rule("images-untouched", untouched),
    Rule("rate", rate),
    Rule("ends-or-goes-on", ends),
    Rule("slow-reader", slow_reader),
    Rule("fails-the-right-way", fails, opens=False),
    Rule("left-early", left_early),
    Rule("left-late", left_late),
    Rule("reopens-without-leaks", reopens),
    Rule("prints-nothing", quiet),
    Rule("model-predicts", model),
)


def source_of(case: SourceCase) -> CameraSource:
    """Make the source once, so that wrong settings are told before any rule is tried."""
    return case.make(case.url)
