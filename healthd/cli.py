"""The command line: `healthd run | demo | check-config | plugins | plugin | infer | models | auth | top`.

Exit codes: 0 a clean stop or nothing wrong; 1 the daemon could not start, its server died, `top --once` got no answer,
`infer` failed, for one picture at least, `models` did, or a plugin breaks a rule (`plugins check`);
2 wrong usage or configuration; 130 or 143 a second SIGINT or SIGTERM cut the stop short, or the first one ended
`infer`, `models`, `check-config` or `plugins check`.
"""

# Heavy imports stand inside the verbs, asyncio too: as PID 1 a process without handlers ignores SIGTERM, so the first
# thing done here, before a second of imports, is to own the signals.

import argparse
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from healthd.arguments import interval, port
from healthd.cli_arguments import INFER_PARAMETERS, add_check_verb, add_infer_arguments, add_models_verbs, add_new_verb

if TYPE_CHECKING:
    from healthd.settings import Settings
    from healthd.settings_changes import ConfigFile

OK, FAILED, WRONG_CONFIG = 0, 1, 2
API_KEY_VARIABLE = "HEALTHD_API_KEY"

_HANGUPS: list[int] = []
"""What asked to read the configuration again before the daemon was there to do it."""

SWITCH_SECONDS = 0.0005
"""How long a thread that computes in Python may keep the others waiting. Beside three plugins that do so for ever, a
camera of 20 fps got 7 with Python's own 5 ms, and 15 with this; without such plugins it costs nothing."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process, whatever threads still hang in a driver."""
    words = [word for word in (sys.argv[1:] if arguments is None else arguments) if not word.startswith("-")]
    if words[:1] in (["run"], ["demo"]) and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, _: _HANGUPS.append(number))
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
    demo.add_argument("--port", type=port, help="port to listen on (default 8080; 0: any that is free)")
    demo.set_defaults(verb=_demo)

    check = verbs.add_parser("check-config", parents=[common], help="say what is wrong with a configuration; exit 2")
    check.add_argument("--config", type=Path, required=True, help="TOML file")
    _add_safe_mode(check)
    check.set_defaults(verb=_check_config)

    plugins = verbs.add_parser("plugins", parents=[common], help="list installed plugins and their settings; check one")
    _add_safe_mode(plugins)
    plugins.set_defaults(verb=_plugins)
    add_check_verb(plugins.add_subparsers(metavar="VERB"), common, _check_plugin)

    plugin = verbs.add_parser("plugin", help="begin a plugin of your own")
    add_new_verb(plugin.add_subparsers(required=True, metavar="VERB"), _new_plugin)

    infer = verbs.add_parser(
        "infer", parents=[common], help="send pictures, folders, videos or zips through a model; JSON Lines come out"
    )
    add_infer_arguments(infer)
    infer.set_defaults(verb=_infer)

    models = verbs.add_parser("models", help="prepare models for this machine, list them, verify what was prepared")
    add_models_verbs(models.add_subparsers(required=True, metavar="VERB"), common)
    models.set_defaults(verb=_models)

    auth = verbs.add_parser("auth", help="make API keys, and hashes of keys for the configuration")
    auth_verbs = auth.add_subparsers(required=True, metavar="VERB")
    auth_verbs.add_parser("hash", help="read a key from standard input, print its hash").set_defaults(verb=_auth)
    auth_verbs.add_parser("new", help="print a new key and its hash").set_defaults(verb=_auth, new=True)

    top = verbs.add_parser("top", help="watch a running daemon, here or elsewhere: cameras, rates, viewers, load")
    top.add_argument("--url", default="http://127.0.0.1:8080", help="where it is (default %(default)s)")
    top.add_argument("--api-key", metavar="KEY", help="default: HEALTHD_API_KEY , which `ps` does not show")
    top.add_argument("--once", action="store_true", help="look once (two polls) and end; exit 1 without an answer")
    top.add_argument("--json", action="store_true", help="one JSON object per look")
    top.add_argument("--interval", type=interval, default=1.0, metavar="SECONDS", help="0.1 to 3600 (default 1)")
    top.set_defaults(verb=_top)
    return parser


def _add_safe_mode(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--safe-mode", action="store_true", help="import only plugins of the healthd project")


def _run(chosen: argparse.Namespace) -> int:
    from healthd.settings import ConfigError, load_settings  # noqa: PLC0415
    from healthd.settings_changes import ConfigFile  # noqa: PLC0415

    path: Path | None = chosen.config
    file = ConfigFile(path.absolute(), lambda: _commanded(chosen, load_settings(path))) if path else None
    try:
        settings = file.load() if file else _commanded(chosen, load_settings(None))
    except ConfigError as exc:
        return _say(f"{exc}", WRONG_CONFIG)
    return _serve(settings, file)


def _commanded(chosen: argparse.Namespace, settings: "Settings") -> "Settings":
    """Put what the command line says over the settings."""
    from healthd.settings import in_safe_mode, with_command  # noqa: PLC0415

    asked = {"level": chosen.log_level, "format": chosen.log_format}
    said = {key: value for key, value in asked.items() if value}
    names: dict[tuple[str | int, ...], str] = {("log", key): f"--log-{key}" for key in said}
    commanded = with_command(settings, {"log": settings.log.model_copy(update=said)}, names)
    return in_safe_mode(commanded) if getattr(chosen, "safe_mode", False) else commanded


def _demo(chosen: argparse.Namespace) -> int:
    from healthd.demo import demo_settings  # noqa: PLC0415
    from healthd.errors import SettingsError  # noqa: PLC0415
    from healthd.logs import configure_logging  # noqa: PLC0415

    configure_logging(chosen.log_level or "info", chosen.log_format or "auto", sys.stderr)
    try:
        settings = demo_settings(port=chosen.port)
    except SettingsError as exc:
        return _say(str(exc), WRONG_CONFIG)
    return _serve(_commanded(chosen, settings))


def _serve(settings: "Settings", file: "ConfigFile | None" = None) -> NoReturn:
    """Run the daemon and end the process. Nothing in here waits for a reader of its output, the end neither."""
    from healthd.log_writer import patient_stdout  # noqa: PLC0415
    from healthd.native_log import NativeLog  # noqa: PLC0415

    sys.setswitchinterval(SWITCH_SECONDS)
    with patient_stdout(), NativeLog():
        try:
            code = _run_daemon(settings, file)
        except Exception:  # noqa: BLE001  a bug; outside, the log would wait for its reader
            sys.excepthook(*sys.exc_info())
            code = FAILED
    os._exit(code)  # all is written that somebody reads


def _run_daemon(settings: "Settings", file: "ConfigFile | None") -> int:
    from healthd.memory import limit_arenas  # noqa: PLC0415

    limit_arenas()  # before OpenCV and NumPy are imported and start threads
    import structlog  # noqa: PLC0415

    from healthd.daemon import StartError, serve  # noqa: PLC0415
    from healthd.logs import configure_logging  # noqa: PLC0415
    from healthd.settings import settings_hints  # noqa: PLC0415

    def take_log(settings: "Settings") -> None:
        configure_logging(settings.log.level, settings.log.format, sys.stderr)

    take_log(settings)
    for hint in settings_hints(settings):
        structlog.get_logger("healthd.settings").warning("settings_hint", hint=hint)

    def listening(url: str) -> None:
        print(f"healthd is at {url}  (Ctrl-C stops it)", flush=True)

    try:
        return _run_loop(
            serve(settings, file=file, reload_asked=lambda: bool(_HANGUPS), take_log=take_log, on_listening=listening)
        )
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
    from healthd.check import check_cameras, check_tls  # noqa: PLC0415
    from healthd.settings import ConfigError, in_safe_mode, load_settings, settings_hints  # noqa: PLC0415

    _quiet(chosen)
    try:
        settings = load_settings(chosen.config)
    except ConfigError as exc:
        return _say(str(exc), WRONG_CONFIG)
    settings = in_safe_mode(settings) if chosen.safe_mode else settings
    problems, hints = check_tls(settings)
    for hint in (*settings_hints(settings), *hints):
        _hint(hint)
    problems += _run_loop_of(check_cameras(settings, on_hint=_hint))
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


def _check_plugin(chosen: argparse.Namespace) -> int:
    _signals_cut_short()
    from healthd.plugin_check import CheckOptions, check_plugin, survived  # noqa: PLC0415

    _quiet(chosen)
    return survived(lambda: check_plugin(CheckOptions.of(chosen)))


def _new_plugin(chosen: argparse.Namespace) -> int:
    from healthd.plugin_project import write_project  # noqa: PLC0415

    return write_project(chosen.name, chosen.directory)


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


def _auth(chosen: argparse.Namespace) -> int:
    from healthd import auth_command  # noqa: PLC0415

    return auth_command.make() if "new" in chosen else auth_command.hash_typed()


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
