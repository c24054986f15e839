"""`load`: a file to an engine that is ready to run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgeattn.artifacts import (
    Manifest,
    Parent,
    manifest_path,
    open_for_reading,
    read_manifest,
)
from edgeattn.engine.base import Engine
from edgeattn.engine.cpu_build import LoweredGraph, choose_int8, lower, was_tried_here
from edgeattn.errors import ArtifactError, EngineError
from edgeattn.graph.files import graph_sha256, load_graph


def load(path: Path | str, *, threads: int | None = None) -> Engine:
    """Load an engine file, or an ONNX graph, which is lowered for the CPU in memory.

    An INT8 engine that comes from another kind of processor is tried anew on this one: which
    arithmetic is faithful depends on the kernels. The choice stands in the engine's manifest in
    memory; the file is not touched.

    Args:
        path: `NAME.engine` with its manifest beside it, or a `.onnx` file.
        threads: Threads to use; by default as built, else all physical cores.

    Returns:
        The engine; close it, or use it in a `with` block.

    Raises:
        ArtifactError: If a file is missing, truncated, replaced or no engine.
        EngineError: If the engine is for another device or its graph is refused.
        GraphError: If an ONNX file is no whole graph, or a weight is NaN or infinite.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        return _load_graph(path, threads)
    manifest = _read_manifest(path)
    if manifest.target != "cpu":
        raise EngineError(
            f"{path} is an engine for {manifest.target}; this edgeattn runs engines for cpu",
            "build one from its graph",
        )
    with open_for_reading(path) as stream:
        data = stream.read()
    weights_folder = path.absolute().parent if len(manifest.files) > 1 else None
    graph = LoweredGraph(data, manifest, weights_folder)
    if "int8_arithmetic" in manifest.report and not was_tried_here(manifest):
        graph = choose_int8(graph)
    return graph.open(threads)


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
    manifest = read_manifest(path)
    if manifest.kind != "engine":
        raise ArtifactError(f"{path} is a {manifest.kind}; expected an engine")
    return manifest
