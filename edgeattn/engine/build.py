"""`build`: a graph to an engine file and its manifest."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, overload

from edgeattn.artifacts import (
    Manifest,
    Parent,
    atomic_artifact,
    check_writable,
    manifest_path,
    sha256_of_file,
)
from edgeattn.engine.base import near_misses
from edgeattn.engine.cpu_build import LoweredGraph, lower
from edgeattn.errors import ArtifactError, BuildError, MissingDependencyError
from edgeattn.graph.files import graph_sha256, load_graph

Progress = Callable[[int, "int | None", str], None]


@overload
def build(
    graph: Path | str,
    output: Path | str | None = None,
    *,
    engine: str = "auto",
    table: Path | str | None = None,
    precision: str | None = None,
    dry_run: Literal[False] = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Path: ...


@overload
def build(
    graph: Path | str,
    output: Path | str | None = None,
    *,
    engine: str = "auto",
    table: Path | str | None = None,
    precision: str | None = None,
    dry_run: Literal[True],
    threads: int | None = None,
    progress: Progress | None = None,
) -> Manifest: ...


def build(
    graph: Path | str,
    output: Path | str | None = None,
    *,
    engine: str = "auto",
    table: Path | str | None = None,
    precision: str | None = None,
    dry_run: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Path | Manifest:
    """Build an engine.

    The same graph, options and tools give the same bytes.

    Args:
        graph: The ONNX file.
        output: Engine file to write; the graph's name with `.engine` if not given. The manifest
            goes beside it.
        engine: `cpu`, or `auto` for the best engine there is.
        table: Calibration table of the graph, for a `precision` with INT8 in it.
        precision: Precision to write into the graph on the way, as `quantize` takes it.
        dry_run: Do everything but write.
        threads: Threads the engine shall use on any machine; by default all physical cores of
            the machine it is loaded on.
        progress: Called with steps done, steps in all, and the step at hand.

    Returns:
        The engine file; for a dry run the manifest that it would have.

    Raises:
        ArtifactError: If a file is missing, or the output cannot be written.
        BuildError: If the options contradict each other or the engine is unknown.
        EngineError: If the engine refuses the graph.
        GraphError: If the graph is malformed, or a weight is NaN or infinite.
        MissingDependencyError: If the engine asked for is not installed.
        TableError: If the table belongs to another graph.
    """
    _check_engine(engine)
    if table is not None and precision is None:
        raise BuildError("a table was given but no precision", "give a precision too")
    graph = Path(graph)
    output = graph.with_suffix(".engine") if output is None else Path(output)
    if not dry_run:
        check_writable(output)
        check_writable(manifest_path(output))
    if output.exists() and graph.exists() and output.samefile(graph):
        raise ArtifactError(f"the output {output} is the graph to build", "choose another output")
    step = _Steps(progress, 4 if precision else 3)
    parents = {"graph": Parent(graph.name, graph_sha256(graph))}
    # Beside the output, so that large weights are written once and moved into place.
    with tempfile.TemporaryDirectory(
        prefix=".edgeattn-", dir=None if dry_run else output.absolute().parent
    ) as folder:
        source = graph
        if precision is not None:
            from edgeattn.calibration.quantize import quantize

            step("quantize")
            source = Path(folder) / graph.name
            quantize(graph, source, table=table, precision=precision)
            if table is not None:
                parents["table"] = Parent(Path(table).name, sha256_of_file(Path(table)))
        step("read the graph")
        model = load_graph(source)
        step("lower and try it")
        weights = Path(folder) / (output.name + ".data")
        asked = {"threads": threads, "precision": precision}
        options = {name: value for name, value in asked.items() if value is not None}
        lowered = lower(model, parents, weights=weights, options=options)
        lowered.open().close()
        if dry_run:
            return lowered.manifest
        step("write")
        _write(output, lowered, weights)
        step("write")
    return output


def _check_engine(engine: str) -> None:
    if engine == "tensorrt":
        if importlib.util.find_spec("tensorrt") is None:
            raise MissingDependencyError(
                "a TensorRT engine cannot be built here: TensorRT is not installed",
                "install it from JetPack or NVIDIA's repository, or use the engine cpu",
            )
        raise BuildError("this version of edgeattn builds no TensorRT engines", "use cpu")
    if engine not in ("auto", "cpu"):
        known = ("auto", "cpu", "tensorrt")
        raise BuildError(f"there is no engine {engine}", near_misses(engine, known))


def _write(output: Path, lowered: LoweredGraph, weights: Path) -> None:
    """Write engine, weights if apart, and manifest, together or not at all."""
    beside = [] if lowered.weights_folder is None else [weights.name]
    with atomic_artifact(output, lowered.manifest, *beside) as (plan, *data):
        plan.write_bytes(lowered.data)
        for file in data:
            weights.replace(file)


class _Steps:
    """Counts steps for a progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total, what)
        self._done += 1
