"""What the engine `ultralytics` computes on: the GPU or the processor, how many pictures at once, how many threads.

torch is imported where it is needed: whoever calls these has imported ultralytics before.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from healthd.cpus import usable_cpus
from healthd.errors import ParameterError
from healthd_yolo.threads import thread_limit

_CUDA_BATCH = 8
"""Pictures at once on a GPU where nobody says another number; not measured."""


def require_cuda(device: str | None, path: Path) -> None:
    """Refuse a GPU that is not there, in words that say what to do.

    Raises:
        ParameterError: `device`, or the file without one, needs CUDA, and torch does not see it.
    """
    wanted = (device or ("cuda:0" if path.suffix.lower() == ".engine" else "")).lower()
    number = wanted.removeprefix("cuda").removeprefix(":")
    if not wanted or not (wanted.startswith("cuda") or wanted.isdigit()):
        return
    import torch  # noqa: PLC0415  loaded already

    if not torch.cuda.is_available():
        remedy = (
            "this torch was built without CUDA: install one that has it"
            if torch.version.cuda is None
            else "install the NVIDIA driver, or pass the GPU into the container"
        )
        raise ParameterError(f"device: {path.name} is to run on `{wanted}`, and torch sees no CUDA here: {remedy}")
    there = torch.cuda.device_count()
    if number.isdigit() and int(number) >= there:
        raise ParameterError(f"device: there is no `{wanted}` here, only cuda:0 to cuda:{there - 1}")


def batch_size(asked: int | None, network: Any) -> int:
    """Return how many pictures the network should be given at once at most.

    An export says what it was made for; a checkpoint takes any number, which pays on a GPU.
    """
    if network.format == "pt":
        return asked or (_CUDA_BATCH if network.device.type == "cuda" else 1)
    made_for = max(1, int(network.batch))
    if network.format == "engine" or not getattr(network, "dynamic", False):
        return min(asked or made_for, made_for)
    return asked or made_for


def current(device: Any) -> AbstractContextManager[Any]:
    """Make a GPU the current one of this thread, which may be any; TensorRT and page-locked memory go by that."""
    import torch  # noqa: PLC0415  loaded already

    manager: AbstractContextManager[Any] = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    return manager


def set_threads(asked: int | None, device: str) -> None:
    """Give torch the threads of this process; ultralytics leaves one CPU of two unused."""
    if device == "cpu":
        import torch  # noqa: PLC0415  loaded already

        torch.set_num_threads(thread_limit(asked) or usable_cpus())
