"""What a board is, as far as its Python environment depends on it."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_IMPORT_S = 120.0  # a first `import tensorrt` reads gigabytes of libraries


def read_facts(root: Path) -> dict[str, Any]:
    """Describe the board.

    Args:
        root: The deployment folder, which need not be there yet.

    Returns:
        `python` and its `executable`; `machine` as `uname -m` says it; `tensorrt`, the version that
        the board's own Python imports, or empty; `cuda`, what the driver supports, or empty; `l4t`,
        the first line of its release file, and `model`, what its device tree calls it, or empty;
        `free_bytes` of the folder's disk.
    """
    place = root
    while not place.exists():
        place = place.parent
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "machine": platform.machine(),
        "tensorrt": _tensorrt(),
        "cuda": _driver_cuda(),
        "l4t": _first_line(Path("/etc/nv_tegra_release")),
        "model": _first_line(Path("/proc/device-tree/model")).strip("\0"),
        "free_bytes": shutil.disk_usage(place).free,
    }


def _tensorrt() -> str:
    """Ask in a process of its own: a library of another version may crash it."""
    code = "import tensorrt; print(tensorrt.__version__)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_IMPORT_S,
            check=False,
            cwd="/",  # not the user's home, where any file may have a module's name
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _driver_cuda() -> str:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    number = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(number)) or not number.value:
        return ""
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _first_line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").partition("\n")[0]
    except OSError:
        return ""
