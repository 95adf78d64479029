"""The command line: `healthd run | demo | check-config | plugins | infer | models | top`.

Exit codes: 0 a clean stop or nothing wrong; 1 the daemon could not start, its server died, `top --once` got no answer,
`infer` failed, for one picture at least, or `models` did; 2 wrong usage or configuration; 130 or 143 a second SIGINT or
SIGTERM cut the stop short, or the first one ended `infer`, `models` or `check-config`.
"""

# Heavy imports stand inside the verbs, asyncio too: as PID 1 a process without handlers ignores SIGTERM, so the first
# thing done here, before a second of imports, is to own the signals.

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from healthd.settings import Settings

OK, FAILED, WRONG_CONFIG = 0, 1, 2
HIGHEST_PORT = 65535
API_KEY_VARIABLE = "HEALTHD_API_KEY"

INFER_PARAMETERS = {
    "conf": "leave out results below this confidence, 0 to 1 (default 0.25)",
    "iou": "overlap above which one of two results is dropped, 0 to 1 (default 0.45)",
    "max_det": "at most so many results, 1 to 1000 (default 300)",
    "imgsz": "side of the network's input, 32 to 4096 (default: the model's own)",
    "device": "where to compute, e.g. CPU (default: the model's own choice)",
    "question": "what to answer about each picture, for models that take it",
}

SWITCH_SECONDS = 0.0005
"""How long a thread that computes in Python may keep the others waiting. Beside three plugins that do so for ever, a
camera of 20 fps got 7 with Python's own 5 ms, and 15 with this; without such plugins it costs nothing."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process, whatever threads still hang in a driver."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(OK))  # nothing has been started yet: nothing has to be stopped
    code = FAILED
    try:
        code = _run_verb(arguments)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BrokenPipeError:  # nobody reads it any more
        pass
    except Exception:  # noqa: BLE001  a bug; whatever it is, the process ends here
        sys.excepthook(*sys.exc_info())
    # An ordinary exit runs the destructors of native libraries, which may wait for a thread that never returns.
    os._exit(code)


def _run_verb(arguments: Sequence[str] | None) -> int:
    try:
        chosen = _parser().parse_args(arguments)
        verb: Callable[[argparse.Namespace], int] = chosen.verb
        return verb(chosen)
    except SystemExit as exc:  # argparse: --help and wrong usage
        return exc.code if isinstance(exc.code, int) else WRONG_CONFIG


def _parser() -> argparse.ArgumentParser:
    from healthd import __version__  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="healthd", description="A camera daemon for home labs.")
    parser.add_argument("--version", action="version", version=f"healthd {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default: log.level")
    common.add_argument("--log-format", choices=["auto", "console", "json"], help="default: log.format")

    run = verbs.add_parser("run", parents=[common], help="watch the cameras of a configuration file")
    run.add_argument("--config", type=Path, help="TOML file; without it, defaults and the environment alone")
    _add_safe_mode(run)
    run.set_defaults(verb=_run)

    demo = verbs.add_parser("demo", parents=[common], help="watch two filmed cameras that an installed plugin brings")
    demo.add_argument("--port", type=_port, help="port to listen on (default 8080; 0: any that is free)")
    demo.set_defaults(verb=_demo)

    check = verbs.add_parser("check-config", parents=[common], help="say what is wrong with a configuration; exit 2")
    check.add_argument("--config", type=Path, required=True, help="TOML file")
    _add_safe_mode(check)
    check.set_defaults(verb=_check_config)

    plugins = verbs.add_parser("plugins", parents=[common], help="list installed plugins and their settings")
    _add_safe_mode(plugins)
    plugins.set_defaults(verb=_plugins)

    infer = verbs.add_parser(
        "infer", parents=[common], help="send pictures, folders, videos or zips through a model; JSON Lines come out"
    )
    _add_infer_arguments(infer)
    infer.set_defaults(verb=_infer)

    models = verbs.add_parser("models", help="prepare models for this machine, list them, verify what was prepared")
    _add_models_verbs(models.add_subparsers(required=True, metavar="VERB"), common)

    top = verbs.add_parser("top", help="watch a running daemon, here or elsewhere: cameras, rates, viewers, load")
    top.add_argument("--url", default="http://127.0.0.1:8080", help="where it is (default %(default)s)")
    top.add_argument("--api-key", metavar="KEY", help="default: HEALTHD_API_KEY , which `ps` does not show")
    top.add_argument("--once", action="store_true", help="look once (two polls) and end; exit 1 without an answer")
    top.add_argument("--json", action="store_true", help="one JSON object per look")
    top.add_argument("--interval", type=_interval, default=1.0, metavar="SECONDS", help="0.1 to 3600 (default 1)")
    top.set_defaults(verb=_top)
    return parser


def _add_safe_mode(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--safe-mode", action="store_true", help="import only plugins of the healthd project")


def _add_infer_arguments(infer: argparse.ArgumentParser) -> None:
    infer.add_argument("inputs", nargs="+", metavar="FILE", help="video, zip of pictures, folder or picture")
    infer.add_argument("--config", type=Path, help="TOML file, for models.directory and models.default")
    infer.add_argument("--model", help="name in models.directory, or a path (default: models.default)")
    infer.add_argument("--output", type=Path, metavar="FILE", help="JSON Lines (default: standard output)")
    infer.add_argument("--overwrite", action="store_true", help="write over an output that is there already")
    infer.add_argument("--annotate", type=Path, metavar="DIR", help="write each picture there, with the results drawn")
    infer.add_argument("--every", type=_every, default=1, metavar="N", help="every N-th frame of a video (default 1)")
    for name, what in INFER_PARAMETERS.items():
        infer.add_argument(f"--{name.replace('_', '-')}", help=what, metavar="VALUE")
    infer.add_argument("--half", action="store_true", default=None, help="compute in half precision")
    infer.add_argument("--text-query", dest="text_queries", action="append", metavar="TEXT", help="what to look for")


def _add_models_verbs(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    of_directory = argparse.ArgumentParser(add_help=False, parents=[common])
    of_directory.add_argument("--config", type=Path, help="TOML file, for models.directory")
    prepare = verbs.add_parser("prepare", parents=[of_directory], help="make of a .pt file what runs best here")
    prepare.add_argument("name", metavar="NAME", help="a path, or a name in models.directory, e.g. yolo11n-pose.pt")
    prepare.add_argument("--format", choices=["auto", "openvino", "onnx"], default="auto", help="default %(default)s")
    prepare.add_argument("--int8", action="store_true", help="quantize; needs --calibration")
    prepare.add_argument("--calibration", type=Path, metavar="FOLDER", help="pictures, or a clip, of your own cameras")
    prepare.add_argument("--imgsz", type=_side, metavar="N", help="side of the input, 32 to 4096 (default: its own)")
    prepare.add_argument("--output", type=_file_name, metavar="NAME", help="name of the result in models.directory")
    prepare.add_argument("--force", action="store_true", help="replace what is there; keep what strays too far")
    prepare.set_defaults(verb=_models, models_verb="prepare")
    listing = verbs.add_parser("list", parents=[of_directory], help="list what lies in models.directory")
    listing.set_defaults(verb=_models, models_verb="list")
    verify = verbs.add_parser("verify", parents=[of_directory], help="compare a prepared model with its checksums")
    verify.add_argument("name", metavar="NAME", help="a path, or a name in models.directory")
    verify.set_defaults(verb=_models, models_verb="verify")


def _side(text: str) -> int:
    if text.isdecimal() and 32 <= int(text) <= 4096:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 32 to 4096")


def _file_name(text: str) -> str:
    if Path(text).name == text and not text.startswith("."):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is no plain name: the result goes into models.directory")


def _every(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to {HIGHEST_PORT}")
    return port


def _interval(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.1 <= (seconds := float(text)) <= 3600:
            return seconds
    raise argparse.ArgumentTypeError("must be a number from 0.1 to 3600")


def _run(chosen: argparse.Namespace) -> int:
    from healthd.settings import ConfigError, in_safe_mode, load_settings  # noqa: PLC0415

    try:
        settings = load_settings(chosen.config)
    except ConfigError as exc:
        return _say(f"{exc}", WRONG_CONFIG)
    return _serve(chosen, in_safe_mode(settings) if chosen.safe_mode else settings)


def _demo(chosen: argparse.Namespace) -> int:
    from healthd.demo import demo_settings  # noqa: PLC0415
    from healthd.errors import SettingsError  # noqa: PLC0415
    from healthd.logs import configure_logging  # noqa: PLC0415

    configure_logging(chosen.log_level or "info", chosen.log_format or "auto", sys.stderr)
    try:
        settings = demo_settings(port=chosen.port)
    except SettingsError as exc:
        return _say(str(exc), WRONG_CONFIG)
    return _serve(chosen, settings)


def _serve(chosen: argparse.Namespace, settings: "Settings") -> NoReturn:
    """Run the daemon and end the process. Nothing in here waits for a reader of its output, the end neither."""
    from healthd.log_writer import patient_stdout  # noqa: PLC0415
    from healthd.native_log import NativeLog  # noqa: PLC0415

    sys.setswitchinterval(SWITCH_SECONDS)
    with patient_stdout(), NativeLog():
        try:
            code = _run_daemon(chosen, settings)
        except Exception:  # noqa: BLE001  a bug; outside, the log would wait for its reader
            sys.excepthook(*sys.exc_info())
            code = FAILED
    os._exit(code)  # all is written that somebody reads


def _run_daemon(chosen: argparse.Namespace, settings: "Settings") -> int:
    from healthd.memory import limit_arenas  # noqa: PLC0415

    limit_arenas()  # before OpenCV and NumPy are imported and start threads
    import structlog  # noqa: PLC0415

    from healthd.daemon import StartError, serve  # noqa: PLC0415
    from healthd.logs import configure_logging  # noqa: PLC0415
    from healthd.settings import settings_hints, with_command  # noqa: PLC0415

    asked = {"level": chosen.log_level, "format": chosen.log_format}
    said = {key: value for key, value in asked.items() if value}
    names: dict[tuple[str | int, ...], str] = {("log", key): f"--log-{key}" for key in said}
    settings = with_command(settings, {"log": settings.log.model_copy(update=said)}, names)
    configure_logging(settings.log.level, settings.log.format, sys.stderr)
    for hint in settings_hints(settings):
        structlog.get_logger("healthd.settings").warning("settings_hint", hint=hint)

    def listening(url: str) -> None:
        print(f"healthd is at {url}  (Ctrl-C stops it)", flush=True)

    try:
        return _run_loop(serve(settings, on_listening=listening))
    except StartError as exc:
        return _say(str(exc), FAILED)


def _run_loop(main: Coroutine[None, None, int]) -> int:
    """Run the task of a verb. The loop is left as it is: closing it would wait for what was abandoned."""
    import asyncio  # noqa: PLC0415

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(main)


def _signals_cut_short() -> None:
    """Let the first signal end a verb whose answer is its exit code: nobody may take it for the answer."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda caught, _: os._exit(128 + caught))


def _check_config(chosen: argparse.Namespace) -> int:
    _signals_cut_short()
    from healthd.check import check_cameras  # noqa: PLC0415
    from healthd.settings import ConfigError, in_safe_mode, load_settings, settings_hints  # noqa: PLC0415

    _quiet(chosen)
    try:
        settings = load_settings(chosen.config)
    except ConfigError as exc:
        return _say(str(exc), WRONG_CONFIG)
    settings = in_safe_mode(settings) if chosen.safe_mode else settings
    for hint in settings_hints(settings):
        _hint(hint)
    problems = _run_loop_of(check_cameras(settings, on_hint=_hint))
    if problems:
        return _say("\n".join(f"{chosen.config}: {problem}" for problem in problems), WRONG_CONFIG)
    print(f"{chosen.config}: ok, {len(settings.cameras)} camera{'' if len(settings.cameras) == 1 else 's'}")
    return OK


def _hint(text: str) -> None:
    print(f"hint: {text}", file=sys.stderr)


def _plugins(chosen: argparse.Namespace) -> int:
    from healthd.check import list_plugins  # noqa: PLC0415

    _quiet(chosen)
    for line in _run_loop_of(list_plugins(safe_mode=chosen.safe_mode)):
        print(line)
    return OK


def _infer(chosen: argparse.Namespace) -> int:
    _signals_cut_short()
    from pydantic import ValidationError  # noqa: PLC0415

    from healthd.infer_command import InferOptions, infer  # noqa: PLC0415
    from healthd.models.model import InferenceParams  # noqa: PLC0415
    from healthd.settings import ConfigError, load_settings  # noqa: PLC0415

    _quiet(chosen)
    named = [*INFER_PARAMETERS, "half", "text_queries"]
    values = {"confidence" if name == "conf" else name: getattr(chosen, name) for name in named}
    try:
        params = InferenceParams.model_validate({name: value for name, value in values.items() if value is not None})
        settings = load_settings(chosen.config)
    except ValidationError as exc:
        wrong = [f"--{error['loc'][0]}: {error['msg']}".replace("_", "-") for error in exc.errors()]
        return _say("\n".join(wrong).replace("--confidence", "--conf"), WRONG_CONFIG)
    except ConfigError as exc:
        return _say(str(exc), WRONG_CONFIG)
    options = InferOptions(
        inputs=tuple(chosen.inputs),
        model=chosen.model,
        params=params,
        every=chosen.every,
        output=chosen.output,
        overwrite=chosen.overwrite,
        annotate=chosen.annotate,
    )
    return _run_loop(infer(settings, options))


def _models(chosen: argparse.Namespace) -> int:
    _signals_cut_short()
    from healthd import models_command  # noqa: PLC0415
    from healthd.models.prepare import PrepareRequest  # noqa: PLC0415
    from healthd.settings import ConfigError, load_settings  # noqa: PLC0415

    _quiet(chosen)
    try:
        settings = load_settings(chosen.config)
    except ConfigError as exc:
        return _say(str(exc), WRONG_CONFIG)
    if chosen.models_verb == "list":
        return _run_loop(models_command.list_models(settings))
    if chosen.models_verb == "verify":
        return _run_loop(models_command.verify(settings, chosen.name))
    request = PrepareRequest(
        format=chosen.format,
        int8=chosen.int8,
        calibration=chosen.calibration,
        imgsz=chosen.imgsz,
        output=chosen.output,
        force=chosen.force,
    )
    return _run_loop(models_command.prepare(settings, chosen.name, request))


def _top(chosen: argparse.Namespace) -> int:
    from healthd.top import TopOptions, top  # noqa: PLC0415
    from healthd.top_client import parse_address, parse_key  # noqa: PLC0415

    said = "--api-key" if chosen.api_key is not None else API_KEY_VARIABLE
    try:
        key = parse_key(chosen.api_key if chosen.api_key is not None else os.environ.get(API_KEY_VARIABLE))
        said = "--url"
        address = parse_address(chosen.url)
    except ValueError as exc:
        return _say(f"{said} {exc}", WRONG_CONFIG)
    options = TopOptions(
        address=address,
        key=key,
        once=chosen.once,
        as_json=chosen.json,
        interval_seconds=chosen.interval,
    )
    return _run_loop(top(options))


def _run_loop_of(main: Coroutine[None, None, list[str]]) -> list[str]:
    import asyncio  # noqa: PLC0415

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(main)


def _quiet(chosen: argparse.Namespace) -> None:
    """Log only what was asked for: the answer of the verb is what it prints."""
    from healthd.logs import configure_logging  # noqa: PLC0415

    configure_logging(chosen.log_level or "error", chosen.log_format or "auto", sys.stderr)


def _say(text: str, code: int) -> int:
    from healthd.redact import SCRUBBER  # noqa: PLC0415

    print(SCRUBBER.scrub(text), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
