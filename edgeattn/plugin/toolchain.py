"""The compilers that a build needs: nvcc of the system or of the pip wheels, g++, cmake.

CUDA 13's compiler is on PyPI: `pip install "edgeattn[cuda]"`. CUDA 12's is not, so that boards with
JetPack 6 (CUDA 12.6) build with their own.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeattn.errors import MissingDependencyError, PluginError
from edgeattn.plugin.cross import RUNTIME_LIBRARY, find_cross_runtime

Version = tuple[int, int, int]

CROSS_COMPILER = "aarch64-linux-gnu-g++"
DEFAULT_CUDA = Path("/usr/local/cuda")  # where CUDA's and JetPack's packages put it


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler with its headers and libraries.

    Attributes:
        path: The program.
        version: Such as (13, 0, 88).
        root: Folder of `include` and `lib` or `lib64`.
        origin: Where it was found.
    """

    path: Path
    version: Version
    root: Path
    origin: Literal["system", "wheels"]

    @property
    def version_text(self) -> str:
        """The version as CUDA writes it: `13.0.88`."""
        return ".".join(map(str, self.version))

    def spell(self, architecture: int) -> int:
        """Give the number that this version calls an architecture by: CUDA 12 has Thor as 101."""
        return 101 if architecture == 110 and self.version[0] == 12 else architecture

    def check_architectures(self, architectures: Sequence[int]) -> None:
        """Make sure that it can compile for these SM numbers.

        Raises:
            PluginError: If it cannot.
        """
        listed = _output([str(self.path), "--list-gpu-code"])
        known = {int(number) for number in re.findall(r"sm_(\d+)", listed)}
        unknown = [number for number in architectures if self.spell(number) not in known]
        if unknown:
            raise PluginError(
                f"nvcc {self.version_text} at {self.path} cannot compile for "
                f"{', '.join(f'sm_{number}' for number in unknown)}",
                "sm_100 and sm_120 need CUDA 12.8, sm_110 needs CUDA 12.8 (as sm_101) or 13.0",
            )


@dataclass(frozen=True)
class Toolchain:
    """What one build is made with.

    Attributes:
        nvcc: The CUDA compiler.
        machine: The processor's architecture that it builds for.
        cmake: The program.
        compiler: Name and version of the C++ compiler.
        flags: What nvcc must be told to find headers and libraries.
    """

    nvcc: Nvcc
    machine: str
    cmake: Path
    compiler: str
    flags: tuple[str, ...]

    @property
    def is_cross(self) -> bool:
        """Whether the result is for another machine than this one."""
        return self.machine != platform.machine()


def find_nvcc() -> Nvcc | None:
    """Find CUDA's compiler: `$CUDACXX`, the path, `$CUDA_HOME`, /usr/local/cuda, the pip wheels.

    Raises:
        PluginError: If what `$CUDACXX` names is no nvcc.
    """
    named = os.environ.get("CUDACXX")
    if named:
        path = shutil.which(named)
        if not path:
            raise PluginError(f"CUDACXX names {named}, which is no program", "unset it or mend it")
        return _nvcc(Path(path), "system")
    on_path = shutil.which("nvcc")
    if on_path:
        return _nvcc(Path(on_path), "system")
    for folder in (Path(os.environ.get("CUDA_HOME") or DEFAULT_CUDA), DEFAULT_CUDA):
        if (folder / "bin/nvcc").is_file():
            return _nvcc(folder / "bin/nvcc", "system")
    for root in _wheel_roots():
        if (root / "bin/nvcc").is_file():
            return _nvcc(root / "bin/nvcc", "wheels")
    return None


def require_nvcc() -> Nvcc:
    """Find CUDA's compiler, or say how to install it.

    Raises:
        MissingDependencyError: If it is not on this machine.
        PluginError: If what `$CUDACXX` names is no nvcc.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise MissingDependencyError(
            "compiling the kernels needs nvcc, which is not on this machine",
            'install CUDA\'s toolkit, or its compiler alone: pip install "edgeattn[cuda]"',
        )
    return nvcc


def find_toolchain(nvcc: Nvcc, machine: str, *, download: bool = False) -> Toolchain:
    """Find what a build for a machine needs besides nvcc.

    Args:
        nvcc: The CUDA compiler.
        machine: `x86_64` or `aarch64`.
        download: Fetch the CUDA runtime of another machine with pip if it is not there.

    Raises:
        MissingDependencyError: If a program is missing; the hint says how to install it.
        PluginError: If this machine cannot build for that one.
    """
    cmake = _find_cmake()
    if machine == platform.machine():
        compiler = os.environ.get("CXX", "g++")
        if not shutil.which(compiler):
            raise MissingDependencyError(
                f"compiling the kernels needs {compiler}, which is not on this machine",
                "apt install g++",
            )
        return Toolchain(nvcc, machine, cmake, _describe(compiler), _library_flags(nvcc.root))
    if machine != "aarch64":
        raise PluginError(
            f"this {platform.machine()} machine cannot build for {machine}",
            f"build on a {machine} machine",
        )
    if not shutil.which(CROSS_COMPILER):
        raise MissingDependencyError(
            f"building for aarch64 needs {CROSS_COMPILER}, which is not on this machine",
            "apt install g++-aarch64-linux-gnu, or build on the board",
        )
    runtime = find_cross_runtime(nvcc.root, nvcc.version[:2], download=download)
    flags = (f"-isystem {nvcc.root / 'include'}", f"-L{runtime}")
    return Toolchain(nvcc, machine, cmake, _describe(CROSS_COMPILER), flags)


def find_cuda_program(name: str) -> Path | None:
    """Find one of CUDA's other programs, such as `cuobjdump`: beside nvcc, the path, the wheels."""
    nvcc = find_nvcc()
    folders = [nvcc.root / "bin"] if nvcc else []
    folders += [root / "bin" for root in _wheel_roots()]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    on_path = shutil.which(name)
    return Path(on_path) if on_path else None


def _nvcc(path: Path, origin: Literal["system", "wheels"]) -> Nvcc:
    version = re.search(r"release \S+, V(\d+)\.(\d+)\.(\d+)", _output([str(path), "--version"]))
    # What is on the path may be a script or a link: nvcc itself tells where its toolkit is.
    told = _output([str(path), "--dryrun", "-x", "cu", "-E", os.devnull])
    top = re.search(r"^#\$ TOP=(.*)$", told, re.MULTILINE)
    if not version or not top:
        raise PluginError(f"{path} is no nvcc: it does not tell its version", "reinstall CUDA")
    major, minor, patch = (int(number) for number in version.groups())
    return Nvcc(path, (major, minor, patch), Path(top[1].strip()).resolve(), origin)


def _wheel_roots() -> Iterator[Path]:
    """Folders that NVIDIA's wheels install to: from CUDA 13 on a whole toolkit in one."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(folder).glob("cu[0-9]*"), reverse=True)


def _library_flags(root: Path) -> tuple[str, ...]:
    """Name the library folder where nvcc does not look: the wheels have `lib`, not `lib64`."""
    found = [name for name in ("lib64", "lib") if (root / name / RUNTIME_LIBRARY).is_file()]
    return (f"-L{root / 'lib'}",) if found == ["lib"] else ()


def _find_cmake() -> Path:
    # pip puts its programs beside Python, which need not be on the path.
    for candidate in (Path(sys.executable).parent / "cmake", shutil.which("cmake")):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise MissingDependencyError(
        "compiling the kernels needs cmake, which is not on this machine",
        'pip install "edgeattn[plugin]", or apt install cmake',
    )


def _describe(compiler: str) -> str:
    return f"{compiler} {_output([compiler, '-dumpfullversion', '-dumpversion']).strip()}"


def _output(command: Sequence[str]) -> str:
    """Run a program and give what it printed, on whichever stream; its failure too."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as err:
        raise PluginError(f"{command[0]} cannot be run: {err.strerror}") from err
    return done.stdout + done.stderr
