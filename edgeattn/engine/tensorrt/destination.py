"""Where a TensorRT engine shall run, and with which TensorRT: here, or on a board that is named."""

from __future__ import annotations

from dataclasses import dataclass

from edgeattn.engine.tensorrt.versions import TensorRtVersion, installed_version
from edgeattn.errors import BuildError, MissingDependencyError
from edgeattn.plugin.driver import local_architectures
from edgeattn.targets import JetPack, Target, get_target


@dataclass(frozen=True)
class Destination:
    """What an engine is built for.

    Attributes:
        version: Its TensorRT.
        version_reason: Why that one, in words.
        architectures: SM numbers that its GPU may have; none if that is not known.
        target: The board; `None` for this machine.
        jetpack: What the board runs; `None` if that was not said and does not follow.
    """

    version: TensorRtVersion
    version_reason: str
    architectures: tuple[int, ...]
    target: Target | None = None
    jetpack: JetPack | None = None

    @property
    def title(self) -> str:
        """Name it for people."""
        return self.target.title if self.target else "this machine"


def plan_for(
    target: str | None = None, jetpack: str | None = None, tensorrt: str | None = None
) -> Destination:
    """Settle what a dry run plans for; nothing of it has to be here.

    Args:
        target: Name of a target.
        jetpack: JetPack release of the target; none for the newest known.
        tensorrt: Version; none for that of the JetPack, or the installed one.

    Raises:
        BuildError: If no version follows from these, or they contradict each other.
        SpecError: If the version is none.
        TargetError: If the target or its JetPack is unknown.
    """
    board = get_target(target) if target else None
    release = _release(board, jetpack)
    if tensorrt is not None:
        version = TensorRtVersion.parse(tensorrt)
        if jetpack and release and not _agree(tensorrt, TensorRtVersion.parse(release.tensorrt)):
            raise BuildError(
                f"JetPack {release.version} has TensorRT {release.tensorrt}, not {tensorrt}",
                "name one of the two",
            )
        if release and not _agree(tensorrt, TensorRtVersion.parse(release.tensorrt)):
            release = None  # the newest was only assumed
        reason = "as asked"
    elif release:
        version = TensorRtVersion.parse(release.tensorrt)
        reason = _release_reason(board, release, assumed=jetpack is None)
    else:
        version, reason = _installed(), "the one installed here"
    version.require_supported()
    architectures = board.architectures if board else local_architectures()
    return Destination(version, reason, architectures, board, release)


def build_for(
    target: str | None = None, jetpack: str | None = None, tensorrt: str | None = None
) -> Destination:
    """Settle what an engine is built for, which is always this machine.

    Args:
        target: Name of the target that this machine has to be.
        jetpack: JetPack release whose TensorRT it has to have.
        tensorrt: Version that it has to have.

    Raises:
        BuildError: If this machine is not what was named, or its TensorRT is not supported.
        MissingDependencyError: If TensorRT is not installed.
        TargetError: If the target or its JetPack is unknown.
    """
    board = get_target(target) if target else None
    release = _release(board, jetpack) if jetpack else None
    version = installed_version()
    version.require_supported()
    wanted = {f"{tensorrt} was asked for": tensorrt} if tensorrt else {}
    if release:
        wanted[f"JetPack {release.version} has {release.tensorrt}"] = release.tensorrt
    for reason, asked in wanted.items():
        if not _agree(asked, version):
            raise BuildError(
                f"TensorRT {version} is installed here, and {reason}",
                "an engine is built with the TensorRT that will run it: build on the board, or "
                "plan for it with --dry-run",
            )
    found = local_architectures()
    if board and not set(found) & set(board.architectures):
        gpus = ", ".join(f"sm_{number}" for number in found) or "none"
        expected = " or ".join(f"sm_{number}" for number in board.architectures)
        raise BuildError(
            f"this machine is no {board.title}: its GPU is {gpus}; expected {expected}",
            "engines are built on the GPU that runs them; --dry-run plans for another",
        )
    return Destination(version, "the one installed here", found, board, release)


def _release(board: Target | None, jetpack: str | None) -> JetPack | None:
    """Find the release that was named, else the newest one of the board."""
    if jetpack and not board:
        raise BuildError(
            f"JetPack {jetpack} is for a board, and none is named",
            "add --target BOARD; `edgeattn targets` lists them",
        )
    if board is None:
        return None
    return board.jetpack(jetpack) if jetpack else (board.jetpacks or (None,))[-1]


def _release_reason(board: Target | None, release: JetPack, *, assumed: bool) -> str:
    if not assumed:
        return f"JetPack {release.version} has it"
    others: dict[str, list[str]] = {}
    for each in board.jetpacks if board else ():
        if each.tensorrt != release.tensorrt:
            others.setdefault(each.tensorrt, []).append(each.version)
    listed = "; ".join(f"{', '.join(names)} have {version}" for version, names in others.items())
    return f"JetPack {release.version}, the newest known, has it" + (f" ({listed})" * bool(listed))


def _installed() -> TensorRtVersion:
    try:
        return installed_version()
    except MissingDependencyError as err:
        raise BuildError(
            "it is not known which TensorRT to plan for: none is installed here, and no board "
            "tells it",
            "add --target BOARD, such as jetson-orin-nano, or --tensorrt-version 10.13",
        ) from err


def _agree(asked: str, version: TensorRtVersion) -> bool:
    """Tell whether a version is the one asked for, as far as it was spelt; builds do not count."""
    wanted = TensorRtVersion.parse(asked)
    spelt = min(asked.count(".") + 1, 3)
    numbers = (version.major, version.minor, version.patch)
    return (wanted.major, wanted.minor, wanted.patch)[:spelt] == numbers[:spelt]
