"""`build`: a graph to an engine file and its manifest."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

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
from edgeattn.engine.typed import make_typed
from edgeattn.engine.verified import require_verified
from edgeattn.errors import ArtifactError, BuildError, MissingDependencyError
from edgeattn.graph.files import graph_sha256
from edgeattn.plugin.driver import local_architectures

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.plan import BuildPlan
    from edgeattn.engine.tensorrt.request import TensorRtRequest

Progress = Callable[[int, "int | None", str], None]
Kind = Literal["cpu", "tensorrt"]


@overload
def build(
    graph: Path | str,
    output: Path | str | None = None,
    *,
    engine: str = "auto",
    table: Path | str | None = None,
    precision: str | None = None,
    fuse: bool = True,
    dry_run: Literal[False] = False,
    verify: bool = False,
    threads: int | None = None,
    tensorrt: TensorRtRequest | None = None,
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
    fuse: bool = True,
    dry_run: Literal[True],
    verify: bool = False,
    threads: int | None = None,
    tensorrt: TensorRtRequest | None = None,
    progress: Progress | None = None,
) -> Manifest | BuildPlan: ...


def build(
    graph: Path | str,
    output: Path | str | None = None,
    *,
    engine: str = "auto",
    table: Path | str | None = None,
    precision: str | None = None,
    fuse: bool = True,
    dry_run: bool = False,
    verify: bool = False,
    threads: int | None = None,
    tensorrt: TensorRtRequest | None = None,
    progress: Progress | None = None,
) -> Path | Manifest | BuildPlan:
    """Build an engine.

    For the CPU, the same graph, options and tools give the same bytes.

    Args:
        graph: The ONNX file.
        output: Engine file to write; the graph's name with `.engine` if not given. The manifest
            goes beside it.
        engine: `cpu`, `tensorrt`, or `auto`: TensorRT where it is installed and there is a GPU,
            or where `tensorrt` is given.
        table: Calibration table of the graph, for a `precision` with INT8 in it.
        precision: Precision to write into the graph on the way, as `quantize` takes it.
        fuse: Put an attention node in the place of each window attention that the graph writes out,
            see `edgeattn.graph.fuse`. A graph with attention nodes is left as it is, and so is a
            quantized one, and one with a table, which belongs to the graph as it is written.
        dry_run: Write no engine. For the CPU everything else is done; for TensorRT, which need not
            be there, the build is planned.
        verify: Check the engine against the graph and against itself before it is written, see
            `edgeattn.engine.verify`.
        threads: Threads the CPU engine shall use on any machine; by default all physical cores of
            the machine it is loaded on.
        tensorrt: What is asked of a TensorRT build.
        progress: Called with steps done, steps in all, and the step at hand.

    Returns:
        The engine file; for a dry run the manifest that it would have, or the plan of the build.

    Raises:
        ArtifactError: If a file is missing, or the output cannot be written.
        BuildError: If the options contradict each other, the engine is unknown, TensorRT cannot
            build the graph as asked, or the engine fails a check.
        EngineError: If the engine refuses the graph.
        GraphError: If the graph is malformed, or a weight is NaN or infinite.
        MissingDependencyError: If the engine asked for is not installed.
        PluginError: If the graph needs a plugin library that is not here or does not fit.
        TableError: If the table belongs to another graph.
        TargetError: If the target named is unknown.
    """
    kind, choice = choose_engine(engine, dry_run=dry_run, is_for_tensorrt=tensorrt is not None)
    if table is not None and precision is None:
        raise BuildError("a table was given but no precision", "give a precision too")
    if threads is not None and kind == "tensorrt":
        raise BuildError("threads were given, and a TensorRT engine has none", "use engine cpu")
    graph = Path(graph)
    output = graph.with_suffix(".engine") if output is None else Path(output)
    if not dry_run:
        check_writable(output)
        check_writable(manifest_path(output))
    for written in (output, tensorrt.lowered_graph if tensorrt else None):
        if written and written.exists() and graph.exists() and written.samefile(graph):
            raise ArtifactError(f"the output {written} is the graph to build", "choose another")
    parents = {"graph": Parent(graph.name, graph_sha256(graph))}
    step = _Steps(progress, 3 + bool(precision) + verify)
    # Beside the output, so that large weights are written once and moved into place.
    with tempfile.TemporaryDirectory(
        prefix=".edgeattn-", dir=None if dry_run else output.absolute().parent
    ) as name:
        folder = Path(name)
        typed = make_typed(graph, folder, table=table, precision=precision, fuse=fuse, step=step)
        if table is not None:
            parents["table"] = Parent(Path(table).name, sha256_of_file(Path(table)))
        options: dict[str, Any] = {"fuse": fuse}
        found = {"fusion": typed.fusion} if typed.fusion else {}
        if kind == "tensorrt":
            from edgeattn.engine.tensorrt.prepare import plan_build
            from edgeattn.engine.tensorrt.request import TensorRtRequest

            request = tensorrt or TensorRtRequest()
            if dry_run:
                plan = plan_build(typed.model, parents, request, graph=graph, output=output)
                return replace(plan, fusion=typed.fusion)
            from edgeattn.engine.tensorrt.engine_file import build_engine

            return build_engine(
                typed.model,
                parents,
                request,
                source=typed.file,
                output=output,
                folder=folder,
                verify=verify,
                options=options,
                found=found,
                progress=progress,
            )
        step("lower and try it")
        weights = folder / (output.name + ".data")
        asked = {"threads": threads, "precision": precision}
        options |= {name: value for name, value in asked.items() if value is not None}
        lowered = lower(typed.model, parents, weights=weights, options=options)
        report = ({"engine_choice": choice} if choice else {}) | found | lowered.manifest.report
        with lowered.open() as opened:
            if verify:
                step("verify")
                report["verify"] = require_verified(opened, typed.file)
        lowered = replace(lowered, manifest=replace(lowered.manifest, report=report))
        if dry_run:
            return lowered.manifest
        step("write")
        _write(output, lowered, weights)
        step("write")
    return output


def choose_engine(
    engine: str, *, dry_run: bool = False, is_for_tensorrt: bool = False
) -> tuple[Kind, str]:
    """Settle what runs the engine; in words too, where `auto` falls back on the CPU.

    Args:
        engine: `cpu`, `tensorrt` or `auto`.
        dry_run: Nothing is built, so TensorRT need not be there.
        is_for_tensorrt: Options of TensorRT are given.

    Raises:
        BuildError: If the engine is unknown, or options of TensorRT are given for the CPU.
        MissingDependencyError: If it is to be TensorRT, which is not installed.
    """
    is_installed = importlib.util.find_spec("tensorrt") is not None
    if engine == "cpu" and is_for_tensorrt:
        raise BuildError(
            "options of TensorRT were given for the engine cpu",
            "use engine tensorrt, or leave them out",
        )
    if engine == "auto" and is_for_tensorrt:
        engine = "tensorrt"
    elif engine == "auto":
        why_not = _why_not_tensorrt(is_installed)
        if why_not:
            return "cpu", f"cpu, since {why_not}"
        engine = "tensorrt"
    if engine == "tensorrt" and not is_installed and not dry_run:
        raise MissingDependencyError(
            "a TensorRT engine cannot be built here: TensorRT is not installed",
            "install it from JetPack or NVIDIA's repository, use the engine cpu, or plan the build "
            "with --dry-run",
        )
    if engine == "tensorrt":
        return "tensorrt", ""
    if engine == "cpu":
        return "cpu", ""
    known = ("auto", "cpu", "tensorrt")
    raise BuildError(f"there is no engine {engine}", near_misses(engine, known))


def _why_not_tensorrt(is_installed: bool) -> str:
    if not is_installed:
        return "TensorRT is not installed here"
    return "" if local_architectures() else "there is no GPU here"


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
