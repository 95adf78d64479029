"""The machine in words, without its name: what figures depend on, and what others must compare theirs with."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from healthd.cpus import usable_cpus

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8", "asimd", "i8mm", "bf16")
"""What the speed of a network on this processor depends on."""
PACKAGES = (
    *("litestar", "uvicorn", "httptools", "opencv-python-headless", "numpy", "openvino"),
    *("ultralytics", "torch", "fastapi"),
)


def _cpu() -> tuple[str, list[str]]:
    """Return model and flags of the processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features", "")).split())
    return fields.get("model name", platform.machine()), [flag for flag in FLAGS if flag in flags]


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _nginx() -> str:
    if shutil.which("nginx") is None:
        return "none"
    told = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr
    return told.strip().rpartition("/")[2].split()[0]


def machine() -> dict[str, str]:
    """Describe the machine."""
    model, flags = _cpu()
    cores, usable = os.cpu_count() or 1, usable_cpus()
    packages = [f"{name} {_version_of(name)}" for name in PACKAGES]
    return {
        "processor": model,
        "cores": f"{cores}, of which healthd may use {usable}",
        "instructions that count": ", ".join(flags) or "none of those that are looked for",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load when it began": f"{os.getloadavg()[0]:.2f}",
        "system": f"{platform.system()} {platform.release()}, {platform.libc_ver()[0]} {platform.libc_ver()[1]}",
        "Python": platform.python_version(),
        "packages": ", ".join([*packages, f"nginx {_nginx()}"]),
    }
