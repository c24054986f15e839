"""What a plugin build was asked for, made definite: for which GPUs and machine, with which tools.

Everything that can be refused is refused here, before anything is compiled; everything that the
user should know, but that is no error, becomes a note.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeattn.errors import PluginError, TargetError
from edgeattn.plugin.driver import local_architectures
from edgeattn.plugin.tensorrt_headers import HEADER_HINT, Headers, find_headers
from edgeattn.plugin.toolchain import Nvcc, Toolchain, find_toolchain, require_nvcc
from edgeattn.targets import JetPack, Target, check_architectures, get_target


@dataclass(frozen=True)
class BuildRequest:
    """One build, decided.

    Attributes:
        toolchain: What compiles it, and for which machine.
        architectures: SM numbers, ascending.
        headers: TensorRT's; `None` if the plugin library is left out.
        notes: What the user should know, in sentences.
    """

    toolchain: Toolchain
    architectures: tuple[int, ...]
    headers: Headers | None
    notes: tuple[str, ...]

    @property
    def cmake_architectures(self) -> str:
        """The architectures as CMake wants them: machine code of each, PTX of the newest."""
        spelled = [str(self.toolchain.nvcc.spell(number)) for number in self.architectures]
        return ";".join([*(f"{number}-real" for number in spelled[:-1]), spelled[-1]])


def resolve_request(
    architectures: Sequence[int] = (),
    *,
    target: str | None = None,
    jetpack: str | None = None,
    tensorrt_include: Path | None = None,
    download: bool = False,
) -> BuildRequest:
    """Decide what to build, and whether this machine can.

    Args:
        architectures: SM numbers; none for those of the target, or of this machine's GPUs.
        target: Name of a target; none for this machine.
        jetpack: JetPack release that the target runs.
        tensorrt_include: Folder of `NvInfer.h`; none to look where TensorRT's packages put it.
        download: Fetch the CUDA runtime of another machine if it is not there.

    Raises:
        TargetError: If the target, JetPack or an architecture is unknown, or if they do not go
            together.
        PluginError: If this machine cannot build it.
        MissingDependencyError: If a compiler is missing.
    """
    board = get_target(target) if target else None
    if jetpack and not board:
        raise TargetError(f"JetPack {jetpack} is for a board, and none is named", "add --target")
    release = board.jetpack(jetpack) if board and jetpack else None
    numbers = _architectures(architectures, board)
    nvcc = require_nvcc()
    notes = _check_cuda(nvcc, board, release) if board else []
    nvcc.check_architectures(numbers)
    machine = board.machine if board else platform.machine()
    toolchain = find_toolchain(nvcc, machine, download=download)
    headers = find_headers(tensorrt_include, toolchain.machine)
    if headers is None:
        notes.append(
            "the TensorRT plugin is left out, since TensorRT's headers are not here: this is the "
            f"kernel library alone. {HEADER_HINT}; name their folder with --tensorrt-include"
        )
    elif release and headers.major != int(release.tensorrt.partition(".")[0]):
        raise PluginError(
            f"the headers in {headers.folder} are of TensorRT {headers.version_text}, but "
            f"JetPack {release.version} has {release.tensorrt}",
            f"name headers of TensorRT {release.tensorrt} with --tensorrt-include",
        )
    return BuildRequest(toolchain, numbers, headers, tuple(notes))


def _architectures(asked: Sequence[int], board: Target | None) -> tuple[int, ...]:
    if asked:
        numbers = check_architectures(asked)
        alien = [number for number in numbers if board and number not in board.architectures]
        if board and alien:
            raise TargetError(
                f"{board.name} has no GPU of sm_{alien[0]}; expected "
                f"{' or '.join(f'sm_{number}' for number in board.architectures)}"
            )
        return numbers
    if board:
        return board.architectures
    found = local_architectures()
    if not found:
        raise PluginError(
            "this machine has no NVIDIA GPU that would say what to build for",
            "name it: --arch 87 (Orin), 110 (Thor), 89 (RTX 40), …, or --target BOARD",
        )
    return check_architectures(found)


def _check_cuda(nvcc: Nvcc, board: Target, release: JetPack | None) -> list[str]:
    """Make sure that what this nvcc builds runs on the board's CUDA."""
    asked = (release,) if release else board.jetpacks
    fitting = [jetpack for jetpack in asked if jetpack.cuda_major == nvcc.version[0]]
    others = [jetpack for jetpack in asked if jetpack not in fitting]
    if asked and not fitting:
        newest = asked[-1]
        raise PluginError(
            f"JetPack {newest.version} has CUDA {newest.cuda}, and nvcc here is "
            f"{nvcc.version_text}: what it builds does not run there"
            + (", and CUDA 12's nvcc is not on PyPI" if newest.cuda_major == 12 else ""),
            "build on the board, with its own nvcc: install edgeattn there and run "
            f"`edgeattn plugin build --target {board.name} --jetpack {newest.version}`",
        )
    notes = []
    if others:
        notes.append(
            f"built with CUDA {nvcc.version_text}, for {_listed(fitting)}; {_listed(others)} "
            f"(CUDA {others[-1].cuda}) needs a build on the board"
        )
    older = [j for j in fitting if _minor(j.cuda) < nvcc.version[:2]]
    if older:
        notes.append(
            f"nvcc {nvcc.version_text} is newer than the CUDA of {_listed(older)}: machine code "
            "runs there, PTX does not"
        )
    return notes


def _minor(version: str) -> tuple[int, int]:
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def _listed(jetpacks: Sequence[JetPack]) -> str:
    return f"JetPack {', '.join(jetpack.version for jetpack in jetpacks)}"
