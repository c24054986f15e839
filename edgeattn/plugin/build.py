"""Build the kernel library and the TensorRT plugin, once for each GPU, toolchain and source.

What was built stays in the cache folder. An entry appears whole or not at all; processes that ask
for the same one wait for each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeattn.artifacts import atomic_path, check_writable, sha256_of_file, write_json
from edgeattn.errors import ArtifactError, PluginError
from edgeattn.plugin.cache import cache_folder, locked
from edgeattn.plugin.compilation import Progress, compile_libraries
from edgeattn.plugin.driver import local_architectures
from edgeattn.plugin.request import BuildRequest, resolve_request
from edgeattn.plugin.source import package_version, plugin_source, source_sha256
from edgeattn.targets import runs_on

KERNELS = "libedgeattn_kernels.so"
PLUGIN = "libedgeattn_plugin.so"
KERNELS_VARIABLE = "EDGEATTN_KERNEL_LIBRARY"
PLUGIN_VARIABLE = "EDGEATTN_PLUGIN_LIBRARY"

_RECORD = "build.json"


@dataclass(frozen=True)
class PluginBuild:
    """What a build made.

    Attributes:
        folder: Where the libraries are.
        files: sha256 of each library, by file name.
        machine: The processor's architecture that they are for.
        architectures: SM numbers whose machine code is in them; PTX of the last one too.
        cuda: Version of the CUDA that compiled them.
        tensorrt: Version of TensorRT's headers; empty if the plugin library was left out.
        compiler: The C++ compiler.
        source_sha256: Hash of the source.
        version: Version of edgeattn.
        notes: What the user should know.
        cached: Nothing was compiled: they were there.
    """

    folder: Path
    files: dict[str, str]
    machine: str
    architectures: tuple[int, ...]
    cuda: str
    tensorrt: str
    compiler: str
    source_sha256: str
    version: str
    notes: tuple[str, ...] = ()
    cached: bool = False

    @property
    def kernels(self) -> Path:
        """The library of kernels with its C interface."""
        return self.folder / KERNELS

    @property
    def plugin(self) -> Path | None:
        """The library that TensorRT loads; `None` if it was left out."""
        return self.folder / PLUGIN if PLUGIN in self.files else None

    def to_dict(self) -> dict[str, Any]:
        """Turn the record into JSON values, with the paths of the libraries."""
        paths = {"kernels": str(self.kernels), "plugin": self.plugin and str(self.plugin)}
        return asdict(self) | {"folder": str(self.folder)} | paths


def build_plugin(
    architectures: Sequence[int] = (),
    *,
    target: str | None = None,
    jetpack: str | None = None,
    tensorrt_include: Path | None = None,
    output: Path | None = None,
    download: bool = False,
    source: Path | None = None,
    progress: Progress | None = None,
) -> PluginBuild:
    """Build the kernel library, and the TensorRT plugin where TensorRT's headers are.

    Args:
        architectures: SM numbers; none for those of the target, or of this machine's GPUs.
        target: Name of a target, such as `jetson-thor`; none for this machine.
        jetpack: JetPack release that the target runs.
        tensorrt_include: Folder of `NvInfer.h`; none to look where TensorRT's packages put it.
        output: Folder that gets a copy of the libraries.
        download: Fetch the CUDA runtime of another machine with pip if it is not there.
        source: `plugins/`; none for the source that comes with the package.
        progress: Called with steps done, steps in all, and the step at hand.

    Returns:
        What was built, or found in the cache.

    Raises:
        TargetError: If the target, JetPack or an architecture is unknown, or if they do not go
            together.
        PluginError: If this machine cannot build it, or the compiler fails.
        MissingDependencyError: If a compiler is missing.
        ArtifactError: If the output folder is not writable.
    """
    request = resolve_request(
        architectures,
        target=target,
        jetpack=jetpack,
        tensorrt_include=tensorrt_include,
        download=download,
    )
    if output is not None:
        _make_folder(output)  # before the minutes that compiling takes
    source = source or plugin_source()
    found = _find_or_build(request, source, progress)
    build = replace(found, notes=request.notes)
    if output is None:
        return build
    for name in build.files:
        with atomic_path(output / name) as temporary:
            shutil.copyfile(build.folder / name, temporary)
    return replace(build, folder=output)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ArtifactError(
            f"the folder {folder} cannot be made: {err.strerror}", "choose another output"
        ) from err
    check_writable(folder / KERNELS)


def _find_or_build(request: BuildRequest, source: Path, progress: Progress | None) -> PluginBuild:
    """Look the request up in the cache, or compile it and put it there."""
    folder = cache_folder() / "plugins"
    made_of = source_sha256(source)
    tools = _tools(request)
    recipe = source_sha256(source, ("CMakeLists.txt", "cmake"))
    entry = folder / _name(request, {**tools, "source": made_of, "recipe": recipe})
    # After a change of the source, what did not change is not compiled again.
    places = [str(source.resolve()), str(folder)]  # CMake wants to be where it was
    work = folder / "work" / _name(request, {**tools, "places": places})

    def tell_waiting() -> None:
        if progress:
            progress(0, None, "waiting for another process that builds the same")

    of_entry = folder / "work" / f"{entry.name}.lock"
    with locked(work.with_suffix(".lock"), tell_waiting) as lock, locked(of_entry, tell_waiting):
        found = _read(entry)
        if found:
            return replace(found, cached=True)
        shutil.rmtree(entry, ignore_errors=True)
        unfinished = work / ".unfinished"
        if unfinished.exists():  # a process was killed in it: nothing there can be trusted
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        headers = request.headers
        names = {KERNELS: "edgeattn_kernels"} | ({PLUGIN: "edgeattn_plugin"} if headers else {})
        settings = {
            "CMAKE_CUDA_ARCHITECTURES": request.cmake_architectures,
            "TENSORRT_INCLUDE_DIR": str(headers.folder) if headers else "",
            "EDGEATTN_VERSION": package_version(),
        }
        try:
            targets = list(names.values())
            compile_libraries(
                source, work, request.toolchain, settings, targets, progress, lock=lock
            )
        except PluginError:  # the compiler itself gave up: it left nothing half-written
            unfinished.unlink()
            raise
        unfinished.unlink()
        if source_sha256(source) != made_of:
            raise PluginError(f"{source} changed while it was compiled", "build again")
        build = PluginBuild(
            entry,
            {name: sha256_of_file(work / name) for name in names},
            request.toolchain.machine,
            request.architectures,
            request.toolchain.nvcc.version_text,
            headers.version_text if headers else "",
            request.toolchain.compiler,
            made_of,
            package_version(),
        )
        _publish(build, work)
        return build


def _tools(request: BuildRequest) -> dict[str, Any]:
    return {
        "machine": request.toolchain.machine,
        "architectures": request.architectures,
        "nvcc": [str(request.toolchain.nvcc.path), request.toolchain.nvcc.version_text],
        "flags": request.toolchain.flags,
        "compiler": request.toolchain.compiler,
        "tensorrt_major": request.headers.major if request.headers else None,
        "version": package_version(),
    }


def _name(request: BuildRequest, made_from: dict[str, Any]) -> str:
    """Name a folder by what is in it, for people, and by the hash of all that it depends on."""
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    numbers = "-".join(map(str, request.architectures))
    tensorrt = f"-trt{request.headers.major}" if request.headers else ""
    return f"{request.toolchain.machine}-sm{numbers}{tensorrt}-{digest[:12]}"


def _publish(build: PluginBuild, work: Path) -> None:
    """Put the libraries into their folder: it appears with everything in it."""
    temporary = Path(tempfile.mkdtemp(dir=build.folder.parent, prefix=".new-"))
    try:
        for name in build.files:
            shutil.copyfile(work / name, temporary / name)
        shutil.copyfile(work / "build.log", temporary / "build.log")
        record = asdict(build)
        del record["folder"], record["notes"], record["cached"]
        write_json(temporary / _RECORD, record)
        temporary.chmod(0o755)  # mkdtemp makes folders private
        temporary.rename(build.folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read(entry: Path) -> PluginBuild | None:
    """Read an entry of the cache; `None` if it is not there or not what its record says."""
    try:
        record = json.loads((entry / _RECORD).read_bytes())
        numbers = tuple(record.pop("architectures"))
        build = PluginBuild(entry, architectures=numbers, **record)
        whole = all(sha256_of_file(entry / name) == digest for name, digest in build.files.items())
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return build if whole else None


def find_kernel_library() -> Path | None:
    """Find the kernel library for this machine's GPUs; never builds one.

    `$EDGEATTN_KERNEL_LIBRARY` names it; else the newest one in the cache that was built from the
    present source and runs on every GPU here.

    Raises:
        PluginError: If the variable names a file that is not there, or the driver is broken.
    """
    return _named(KERNELS_VARIABLE) or _cached(KERNELS)


def find_plugin_library(tensorrt_major: int | None = None) -> Path | None:
    """Find the TensorRT plugin for this machine's GPUs; never builds one.

    `$EDGEATTN_PLUGIN_LIBRARY` names it; else as `find_kernel_library`.

    Args:
        tensorrt_major: Major version of the TensorRT that will load it; none for any.

    Raises:
        PluginError: If the variable names a file that is not there, or the driver is broken.
    """
    return _named(PLUGIN_VARIABLE) or _cached(PLUGIN, tensorrt_major)


def _named(variable: str) -> Path | None:
    value = os.environ.get(variable, "")
    if value and not Path(value).is_file():
        raise PluginError(
            f"{variable} names {value}, and there is no such file", "unset it, or mend the path"
        )
    return Path(value) if value else None


def _cached(library: str, tensorrt_major: int | None = None) -> Path | None:
    devices = local_architectures()
    records = (cache_folder() / "plugins").glob(f"*/{_RECORD}") if devices else ()
    present = source_sha256(plugin_source())
    for record in sorted(records, key=lambda path: path.stat().st_mtime, reverse=True):
        build = _read(record.parent)
        if (
            build
            and library in build.files
            and build.machine == platform.machine()
            and build.source_sha256 == present
            and all(runs_on(build.architectures, device) for device in devices)
            and (tensorrt_major is None or build.tensorrt.startswith(f"{tensorrt_major}."))
        ):
            return build.folder / library
    return None
