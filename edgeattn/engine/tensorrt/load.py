"""Open a TensorRT engine's file, after checking that it belongs here.

TensorRT refuses a plan of another version or GPU with a line in its log and nothing else. What the
manifest says of the build is compared with this machine first, so that a refusal is one sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeattn.artifacts import Manifest, sha256_of_file
from edgeattn.engine.tensorrt.gpu import GpuIdentity, identify_gpu
from edgeattn.engine.tensorrt.run import TensorRtEngine
from edgeattn.engine.tensorrt.versions import TensorRtVersion, installed_version
from edgeattn.errors import ArtifactError, EngineError, SpecError, StaleEngineError
from edgeattn.plugin.build import find_plugin_library

_AMPERE = 80

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRtRunOptions:
    """How to run a TensorRT engine.

    Attributes:
        plugin: The plugin library; by default the one that it was built with, found where it was
            then or where `edgeattn plugin build` puts it.
        device: The GPU, as CUDA numbers them.
        contexts: Callers that are served at the same time.
        cuda_graph: Launch queries as CUDA graphs.
        profile_index: Which of the engine's optimization profiles to use.
        zero_copy: Let the GPU work in the host's memory; by default on an integrated GPU.
    """

    plugin: Path | None = None
    device: int = 0
    contexts: int = 1
    cuda_graph: bool = True
    profile_index: int = 0
    zero_copy: bool | None = None


def load_tensorrt(
    path: Path, manifest: Manifest, options: TensorRtRunOptions | None = None
) -> TensorRtEngine:
    """Open an engine.

    Args:
        path: The engine.
        manifest: Its manifest.
        options: How to run it.

    Raises:
        ArtifactError: If the manifest is malformed, or the file is not the one it describes.
        EngineError: If TensorRT refuses the engine.
        MissingDependencyError: If TensorRT or pycuda cannot be imported.
        PluginError: If the plugin library cannot be loaded.
        StaleEngineError: If the engine belongs to another TensorRT, GPU or plugin library.
    """
    options = options or TensorRtRunOptions()
    built = _read(path, manifest)
    _check_version(path, built, installed_version())
    _check_gpu(path, built, identify_gpu(options.device))
    return TensorRtEngine(
        path,
        manifest,
        plugin=_find_plugin(path, built, options.plugin),
        device=options.device,
        contexts=options.contexts,
        cuda_graph=options.cuda_graph,
        profile_index=options.profile_index,
        zero_copy=options.zero_copy,
    )


@dataclass(frozen=True)
class _Built:
    """What a manifest says of a build, as far as it decides where the engine runs.

    Attributes:
        version: TensorRT that built it.
        gpu: GPU that it was built on.
        options: Options of the build.
        plugins: sha256 of each plugin library that it needs, by its path at the time.
    """

    version: TensorRtVersion
    gpu: GpuIdentity
    options: Mapping[str, Any]
    plugins: Mapping[str, str]


def _read(path: Path, manifest: Manifest) -> _Built:
    try:
        return _Built(
            TensorRtVersion.parse(manifest.report["tensorrt"]),
            GpuIdentity(**manifest.report["gpu"]),
            dict(manifest.options["tensorrt"]),
            {entry["file"]: entry["sha256"] for entry in manifest.report["plugin"]},
        )
    except (KeyError, TypeError, AttributeError, SpecError) as err:
        raise ArtifactError(
            f"the manifest of {path} does not say how the engine was built: {err!r}",
            "build the engine again",
        ) from err


def _check_version(path: Path, built: _Built, here: TensorRtVersion) -> None:
    """A plan runs on the version that built it; a version-compatible one on newer minors too."""
    there = built.version
    if built.options.get("version_compatible"):
        if here.major == there.major and here >= there:
            return
        wanted = f"{there} or a newer {there.major}.x"
    elif (here.major, here.minor, here.patch) == (there.major, there.minor, there.patch):
        return
    else:
        wanted = str(there)
    raise StaleEngineError(
        f"{path} was built with TensorRT {there}, and {here} is installed here; expected {wanted}",
        "build it again here from its graph; --version-compatible makes engines that newer "
        "versions of the same major run",
    )


def _check_gpu(path: Path, built: _Built, here: GpuIdentity) -> None:
    """A plan holds machine code of one compute capability, unless it was built compatible."""
    there = built.gpu
    level = built.options.get("hardware_compatibility", "none")
    runs = here.architecture == there.architecture
    if level == "ampere+":
        runs = here.architecture >= _AMPERE
    if not runs:
        raise StaleEngineError(
            f"{path} was built on {there.name} (sm_{there.architecture}), and this GPU is "
            f"{here.name} (sm_{here.architecture})",
            "engines are built on the GPU that runs them: build it again here from its graph",
        )
    if here.name != there.name and level == "none":
        _log.warning(
            "%s was built on %s and not on this %s: it runs, with kernels that were chosen there",
            path,
            there.name,
            here.name,
        )


def _find_plugin(path: Path, built: _Built, given: Path | None) -> Path | None:
    """Find the very plugin library that an engine was built with; `None` if it needs none."""
    if not built.plugins or built.options.get("embed_plugin"):
        if given is not None:
            raise EngineError(
                f"the plugin library {given} was given, and {path} needs none",
                "leave --plugin out",
            )
        return None
    (kept, sha256), *_ = built.plugins.items()
    if given is not None:
        if sha256_of_file(given) != sha256:
            raise _other_plugin(path, given)
        return given
    found = find_plugin_library(built.version.major)
    candidates = [each for each in (Path(kept), found) if each is not None and each.is_file()]
    for candidate in candidates:
        if sha256_of_file(candidate) == sha256:
            return candidate
    if candidates:
        raise _other_plugin(path, candidates[0])
    raise StaleEngineError(
        f"{path} needs the plugin library that it was built with, and {kept} is not there",
        "name it with --plugin, or run `edgeattn plugin build` and build the engine again",
    )


def _other_plugin(path: Path, library: Path) -> StaleEngineError:
    return StaleEngineError(
        f"the plugin library {library} is not the one that {path} was built with: their hashes "
        "differ",
        "name that one with --plugin, or build the engine again with this one",
    )
