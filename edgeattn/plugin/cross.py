"""The CUDA runtime of aarch64, which a build for a board on an x86-64 machine links with.

It is in NVIDIA's wheel for that machine: pip fetches it if asked to, and never unasked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

from edgeattn.artifacts import write_bytes
from edgeattn.errors import MissingDependencyError, PluginError
from edgeattn.plugin.cache import cache_folder, locked

RUNTIME_LIBRARY = "libcudart_static.a"


def find_cross_runtime(toolkit: Path, version: tuple[int, int], *, download: bool = False) -> Path:
    """Find the folder of aarch64's `libcudart_static.a`.

    Args:
        toolkit: Root of the CUDA toolkit at hand, which may hold it.
        version: Major and minor version of that CUDA.
        download: Fetch it with pip if it is nowhere.

    Raises:
        MissingDependencyError: If it is nowhere and may not be fetched.
        PluginError: If pip could not fetch it.
    """
    for name in ("sbsa-linux", "aarch64-linux"):
        folder = toolkit / "targets" / name / "lib"
        if (folder / RUNTIME_LIBRARY).is_file():
            return folder
    text = f"{version[0]}.{version[1]}"
    package = "nvidia-cuda-runtime" + ("" if version[0] >= 13 else f"-cu{version[0]}")
    wheels = cache_folder() / "wheels"
    library = wheels / f"cuda-{text}-aarch64" / RUNTIME_LIBRARY
    if library.is_file():
        return library.parent
    command = [
        *("pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--platform", "manylinux2014_aarch64", "--dest", str(wheels), f"{package}=={text}.*"),
    ]
    pattern = f"{package.replace('-', '_')}-{text}.*aarch64.whl"
    with locked(wheels / ".lock"):
        if download and not any(wheels.glob(pattern)):
            _run([sys.executable, "-m", *command])
        for wheel in sorted(wheels.glob(pattern)):
            _extract(wheel, library)
            return library.parent
    raise MissingDependencyError(
        f"building for aarch64 needs the CUDA {text} runtime of aarch64 "
        f"({RUNTIME_LIBRARY}, 2 MB), which is not on this machine",
        f"run again with --download, or fetch it yourself: {' '.join(command)}",
    )


def _extract(wheel: Path, library: Path) -> None:
    """Take the library, and the one that nvcc links beside it, out of a wheel."""
    library.parent.mkdir(exist_ok=True)
    with ZipFile(wheel) as archive:
        members = {Path(name).name: name for name in archive.namelist()}
        for name in ("libcudadevrt.a", RUNTIME_LIBRARY):  # the one that is looked for comes last
            if name not in members:
                raise PluginError(f"{wheel} holds no {name}", "delete the wheel and run again")
            write_bytes(library.with_name(name), archive.read(members[name]))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise PluginError(
            f"pip could not fetch the CUDA runtime of aarch64: {lines[-1]}",
            f"try it yourself: {' '.join(command)}",
        )
