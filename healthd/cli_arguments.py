"""The arguments of verbs that take many, or that have verbs of their own."""

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path

from healthd.arguments import every, file_name, side

INFER_PARAMETERS = {
    "conf": "leave out results below this confidence, 0 to 1 (default 0.25)",
    "iou": "overlap above which one of two results is dropped, 0 to 1 (default 0.45)",
    "max_det": "at most so many results, 1 to 1000 (default 300)",
    "imgsz": "side of the network's input, 32 to 4096 (default: the model's own)",
    "device": "where to compute, e.g. CPU (default: the model's own choice)",
    "question": "what to answer about each picture, for models that take it",
}


def add_infer_arguments(infer: argparse.ArgumentParser) -> None:
    """`infer FILE...`."""
    infer.add_argument("inputs", nargs="+", metavar="FILE", help="video, zip of pictures, folder or picture")
    infer.add_argument("--config", type=Path, help="TOML file, for models.directory and models.default")
    infer.add_argument("--model", help="name in models.directory, or a path (default: models.default)")
    infer.add_argument("--output", type=Path, metavar="FILE", help="JSON Lines (default: standard output)")
    infer.add_argument("--overwrite", action="store_true", help="write over an output that is there already")
    infer.add_argument("--annotate", type=Path, metavar="DIR", help="write each picture there, with the results drawn")
    infer.add_argument("--every", type=every, default=1, metavar="N", help="every N-th frame of a video (default 1)")
    for name, what in INFER_PARAMETERS.items():
        infer.add_argument(f"--{name.replace('_', '-')}", help=what, metavar="VALUE")
    infer.add_argument("--half", action="store_true", default=None, help="compute in half precision")
    infer.add_argument("--text-query", dest="text_queries", action="append", metavar="TEXT", help="what to look for")


def add_models_verbs(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    """`models prepare | list | verify`."""
    of_directory = argparse.ArgumentParser(add_help=False, parents=[common])
    of_directory.add_argument("--config", type=Path, help="TOML file, for models.directory")
    prepare = verbs.add_parser("prepare", parents=[of_directory], help="make of a .pt file what runs best here")
    prepare.add_argument("name", metavar="NAME", help="a path, or a name in models.directory, e.g. yolo11n-pose.pt")
    prepare.add_argument("--format", choices=["auto", "openvino", "onnx"], default="auto", help="default %(default)s")
    prepare.add_argument("--int8", action="store_true", help="quantize; needs --calibration")
    prepare.add_argument("--calibration", type=Path, metavar="FOLDER", help="pictures, or a clip, of your own cameras")
    prepare.add_argument("--imgsz", type=side, metavar="N", help="side of the input, 32 to 4096 (default: its own)")
    prepare.add_argument("--output", type=file_name, metavar="NAME", help="name of the result in models.directory")
    prepare.add_argument("--force", action="store_true", help="replace what is there; keep what strays too far")
    prepare.set_defaults(models_verb="prepare")
    listing = verbs.add_parser("list", parents=[of_directory], help="list what lies in models.directory")
    listing.set_defaults(models_verb="list")
    verify = verbs.add_parser("verify", parents=[of_directory], help="compare a prepared model with its checksums")
    verify.add_argument("name", metavar="NAME", help="a path, or a name in models.directory")
    verify.set_defaults(models_verb="verify")


def add_check_verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    common: argparse.ArgumentParser,
    verb: Callable[[argparse.Namespace], int],
) -> None:
    """`plugins check NAME`."""
    check = verbs.add_parser("check", parents=[common], help="try an installed plugin against the contract; exit 1")
    check.add_argument("name", metavar="NAME", help="camera source or family of models, as `healthd plugins` lists it")
    check.add_argument("--url", help="camera to try it on; one with a password: --config and --camera instead")
    check.add_argument("--model", metavar="NAME", help="model to try it with: a path, or a name in models.directory")
    check.add_argument(
        "--option",
        dest="options",
        action="append",
        default=[],
        type=_option,
        metavar="KEY=VALUE",
        help="a setting of it",
    )
    check.add_argument("--config", type=Path, metavar="FILE", help="TOML file, for models.directory and --camera")
    check.add_argument("--camera", metavar="NAME", help="take url and options from this camera of the TOML file")
    check.add_argument("--fps", type=_fps, metavar="N", help="images per second that the camera shall deliver")
    check.add_argument("--picture", type=Path, metavar="FILE", help="picture in which the model finds something")
    check.set_defaults(verb=verb)


def add_new_verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", verb: Callable[[argparse.Namespace], int]
) -> None:
    """`plugin new NAME`."""
    new = verbs.add_parser("new", help="write a complete project: a camera, its settings, its tests")
    new.add_argument("name", metavar="NAME", help="what the plugin shall be called, e.g. barn-door")
    new.add_argument("--directory", type=Path, default=Path(), help="where its folder shall stand (default: here)")
    new.set_defaults(verb=verb)


def _option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key.strip(), value.strip()


def _fps(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (fps := float(text)) <= 1000:
            return fps
    raise argparse.ArgumentTypeError(f"{text!r} is no number of images per second")
