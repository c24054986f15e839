"""The plugin in a bundle: its source, or libraries that were built for the boards."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeattn.bundle.format import PLUGIN_SOURCE
from edgeattn.bundle.read import Bundle
from edgeattn.bundle.recipe import BundledLibrary
from edgeattn.errors import PluginError
from edgeattn.plugin.build import PLUGIN, build_plugin
from edgeattn.plugin.check import check_library
from edgeattn.plugin.driver import local_architectures
from edgeattn.plugin.elf import read_library
from edgeattn.plugin.source import SOURCE_FOLDERS, plugin_source
from edgeattn.targets import get_target, has_machine_code, runs_on

_SOURCE_PARTS = ("CMakeLists.txt", "cmake", *SOURCE_FOLDERS)


def plugin_source_files() -> Iterator[tuple[str, Path]]:
    """List what the plugin is compiled from: its path in the source folder, and the file.

    Raises:
        ArtifactError: If the source did not come with the package.
    """
    source = plugin_source()
    for part in _SOURCE_PARTS:
        found = source / part
        files = [found] if found.is_file() else sorted(p for p in found.rglob("*") if p.is_file())
        for path in files:
            yield path.relative_to(source).as_posix(), path


def describe_library(path: Path, targets: Sequence[str] = ()) -> BundledLibrary:
    """Say where a plugin library runs; none of its code does here.

    Args:
        path: The library.
        targets: Names of the boards, one of which it has to be for; none for any.

    Raises:
        ArtifactError: If the file is missing.
        MissingDependencyError: If pyelftools is not installed.
        PluginError: If it is no TensorRT plugin of edgeattn, fails a check, or is for no target.
        TargetError: If a target is unknown.
    """
    told = read_library(path).plugin_info or {}
    # Held against what it was built for: this machine's GPU and TensorRT are not the board's.
    checked = check_library(path, load=False, gpus=(), tensorrt=told.get("tensorrt"))
    if checked.kind != "plugin":
        raise PluginError(
            f"{path} is no TensorRT plugin but a library of {checked.kind}",
            f"`edgeattn plugin build` makes {PLUGIN} where TensorRT's headers are",
        )
    if checked.failures:
        failures = "; ".join(f"{each.what}: {each.detail}" for each in checked.failures)
        raise PluginError(f"{path} fails the check: {failures}", "build it again")
    boards = [get_target(name) for name in targets]
    if boards and not any(
        board.machine == checked.machine
        and any(runs_on(checked.architectures, number) for number in board.architectures)
        for board in boards
    ):
        numbers = "/".join(map(str, checked.architectures))
        raise PluginError(
            f"{path} is for {checked.machine} and sm_{numbers}, and the bundle for "
            f"{', '.join(targets)}",
            f"edgeattn plugin build --target {targets[0]} makes one",
        )
    major = int(checked.tensorrt.partition(".")[0])
    numbers = "-".join(map(str, checked.architectures))
    return BundledLibrary(
        f"plugin/{checked.machine}-sm{numbers}-trt{major}/{PLUGIN}",
        checked.machine,
        checked.architectures,
        major,
    )


def plugin_from_bundle(
    bundle: Bundle, libraries: Sequence[BundledLibrary], tensorrt_major: int, folder: Path
) -> Path | None:
    """Get the plugin library of this machine out of a bundle, or build it from its source.

    A library with machine code for this GPU comes first, then the source, then a library whose PTX
    the driver can compile.

    What a bundle's plugin does, it does with the rights of whoever builds or runs the engine: only
    a signature says whose it is.

    Args:
        bundle: The bundle.
        libraries: The libraries in it.
        tensorrt_major: Major version of the TensorRT that will load it.
        folder: A temporary folder.

    Returns:
        The library; `None` if the bundle has no plugin.

    Raises:
        ArtifactError: If the bundle has changed meanwhile.
        MissingDependencyError: If a compiler is missing.
        PluginError: If none of its libraries runs here and it has no source, or the compiler fails.
    """
    devices = local_architectures()
    of_machine = [
        library
        for library in libraries
        if library.machine == platform.machine() and library.tensorrt == tensorrt_major
    ]
    for library in of_machine:
        if all(has_machine_code(library.architectures, device) for device in devices):
            return bundle.extract(library.name, folder)
    sources = bundle.manifest.of_role(PLUGIN_SOURCE)
    if sources:
        for entry in sources:
            bundle.extract(entry.name, folder)
        built = build_plugin(source=folder / "plugin/source")
        if built.plugin is None:
            raise PluginError(
                f"the plugin in {bundle.path} cannot be built here: {'; '.join(built.notes)}",
                "install TensorRT's headers, on a Jetson `sudo apt install libnvinfer-headers-dev`",
            )
        return built.plugin
    for library in of_machine:  # its PTX, which the driver compiles
        if all(runs_on(library.architectures, device) for device in devices):
            return bundle.extract(library.name, folder)
    if libraries:
        here = f"{platform.machine()}, sm_{'/'.join(map(str, devices))}, TensorRT {tensorrt_major}"
        raise PluginError(
            f"{bundle.path} holds {', '.join(each.name for each in libraries)}, and none of them "
            f"is for this machine: {here}",
            "make the bundle with a library for it, or with --plugin source",
        )
    return None
