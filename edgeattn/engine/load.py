"""`load`: a file to an engine that is ready to run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn.artifacts import (
    Manifest,
    Parent,
    manifest_path,
    open_for_reading,
    read_manifest,
)
from edgeattn.engine.base import Engine
from edgeattn.engine.cpu_build import LoweredGraph, choose_int8, lower, was_tried_here
from edgeattn.engine.seal import bundle_of, check_seal, rebuild_hint
from edgeattn.errors import ArtifactError, EngineError, StaleEngineError
from edgeattn.graph.files import graph_sha256, load_graph

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions


def load(
    path: Path | str,
    *,
    threads: int | None = None,
    tensorrt: TensorRtRunOptions | None = None,
) -> Engine:
    """Load an engine file, or an ONNX graph, which is lowered for the CPU in memory.

    A TensorRT engine is compared with this machine's TensorRT, GPU and plugin library first, a
    sealed one with the machine that it was verified on too.

    An INT8 CPU engine that comes from another kind of processor is tried anew on this one: which
    arithmetic is faithful depends on the kernels. The choice stands in the engine's manifest in
    memory; the file is not touched.

    Args:
        path: `NAME.engine` with its manifest beside it, or a `.onnx` file.
        threads: Threads of the CPU engine; by default as built, else all physical cores.
        tensorrt: How to run a TensorRT engine.

    Returns:
        The engine; close it, or use it in a `with` block.

    Raises:
        ArtifactError: If a file is missing, truncated, replaced or no engine.
        EngineError: If the engine is of an unknown kind, its graph is refused, or an option is of
            the other kind of engine.
        GraphError: If an ONNX file is no whole graph, or a weight is NaN or infinite.
        MissingDependencyError: If TensorRT or pycuda is needed and cannot be imported.
        PluginError: If a plugin library is needed and cannot be loaded.
        StaleEngineError: If the engine was built for, or sealed on, another machine or software.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        _refuse(path, "cpu", tensorrt is not None, "options of TensorRT")
        return _load_graph(path, threads)
    manifest = _read_manifest(path)
    check_seal(path, manifest)
    if manifest.target == "tensorrt":  # which checks the hash itself, of what TensorRT reads
        from edgeattn.engine.tensorrt.load import load_tensorrt

        _refuse(path, manifest.target, threads is not None, "threads")
        try:
            return load_tensorrt(path, manifest, tensorrt)
        except StaleEngineError as err:
            hint = rebuild_hint(path, manifest) if bundle_of(manifest) else err.hint
            raise StaleEngineError(err.message, hint) from err
    if manifest.target != "cpu":
        raise EngineError(
            f"{path} is an engine for {manifest.target}; this edgeattn runs engines for cpu and "
            "tensorrt",
            "build one from its graph",
        )
    _refuse(path, manifest.target, tensorrt is not None, "options of TensorRT")
    read_manifest(path)
    with open_for_reading(path) as stream:
        data = stream.read()
    weights_folder = path.absolute().parent if len(manifest.files) > 1 else None
    graph = LoweredGraph(data, manifest, weights_folder)
    if "int8_arithmetic" in manifest.report and not was_tried_here(manifest):
        graph = choose_int8(graph)
    return graph.open(threads)


def engine_target(path: Path) -> str:
    """Tell what a file runs on: `cpu` for a graph, which is lowered for it.

    Raises:
        ArtifactError: If it is missing or no engine.
    """
    return "cpu" if path.suffix.lower() == ".onnx" else _read_manifest(path).target


def _refuse(path: Path, target: str, is_given: bool, what: str) -> None:
    """Refuse options of another kind of engine."""
    if is_given:
        raise EngineError(
            f"{what} were given, and {path} runs on the engine {target}", "leave them out"
        )


def _load_graph(path: Path, threads: int | None) -> Engine:
    model = load_graph(path)
    parents = {"graph": Parent(path.name, graph_sha256(path))}
    with tempfile.TemporaryDirectory(prefix="edgeattn-") as folder:
        weights = Path(folder) / (path.name + ".data")
        return lower(model, parents, weights=weights).open(threads)


def _read_manifest(path: Path) -> Manifest:
    with open_for_reading(path):
        pass  # a missing engine is reported as such, not as a missing manifest
    if not manifest_path(path).is_file():
        raise ArtifactError(
            f"{path} is not an engine of edgeattn: {manifest_path(path).name} is not beside it",
            "keep the two together, or build the engine again",
        )
    manifest = read_manifest(path, verify=False)
    if manifest.kind != "engine":
        raise ArtifactError(f"{path} is a {manifest.kind}; expected an engine")
    return manifest
