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
    check_writable,
    manifest_path,
    sha256_of_file,
)
from edgeattn.engine.base import near_misses
from edgeattn.engine.cpu_file import build_cpu_engine
from edgeattn.engine.repeated_choice import RememberedChoice
from edgeattn.engine.typed import make_typed
from edgeattn.engine.variants import Variant, make_variants
from edgeattn.errors import ArtifactError, BuildError, MissingDependencyError
from edgeattn.graph.files import graph_sha256
from edgeattn.graph.fusion.found import GlobalChoice
from edgeattn.plugin.driver import local_architectures

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.destination import Destination
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
    global_attention: bool | None = None,
    autotune_attention: bool = False,
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
    global_attention: bool | None = None,
    autotune_attention: bool = False,
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
    global_attention: bool | None = None,
    autotune_attention: bool = False,
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
        global_attention: Whether to fuse attention of every token to every token too, as one window
            of the whole map. By default TensorRT gets the fused form where that is predicted to be
            faster, see `edgeattn.engine.tensorrt.global_attention`, and the CPU does not.
        autotune_attention: Build the graph as it is written and with attention fused, for TensorRT
            each in every way that it has; check them, time them, keep the fastest. The manifest's
            report has all under `autotune`. `global_attention` limits what is tried.
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
    if global_attention and not fuse:
        raise BuildError(
            "attention of all tokens to all was to be fused, and nothing at all",
            "leave out one of --global-attention and --no-fuse",
        )
    request = None
    takes: bool | GlobalChoice = bool(global_attention)
    if kind == "tensorrt":
        from edgeattn.engine.tensorrt.request import TensorRtRequest

        request = tensorrt or TensorRtRequest()
        where = _settle(request, dry_run=dry_run)
        autotune_attention = autotune_attention or request.autotune_attention
        if global_attention is None and fuse and not autotune_attention:
            takes = _predicted(where, precision)
    parents = {"graph": Parent(graph.name, graph_sha256(graph))}
    step = _Steps(progress, None if autotune_attention else 3 + bool(precision) + verify)
    # Beside the output, so that large weights are written once and moved into place.
    with tempfile.TemporaryDirectory(
        prefix=".edgeattn-", dir=None if dry_run else output.absolute().parent
    ) as name:
        folder = Path(name)
        asked: dict[str, Any] = {"table": table, "precision": precision, "fuse": fuse, "step": step}
        variants: tuple[Variant, ...] = ()
        if autotune_attention:
            variants = make_variants(graph, folder, global_attention=global_attention, **asked)
            typed = variants[0].typed
        else:
            typed = make_typed(graph, folder, global_attention=takes, **asked)
        if table is not None:
            parents["table"] = Parent(Path(table).name, sha256_of_file(Path(table)))
        made = takes.made if isinstance(takes, RememberedChoice) else takes
        options: dict[str, Any] = {"fuse": fuse, "global_attention": made or False}
        if request is not None:
            from edgeattn.engine.tensorrt.prepare import plan_build

            request = replace(request, autotune_attention=autotune_attention)
            if dry_run:
                return plan_build(
                    typed, parents, request, where, graph=graph, output=output, variants=variants
                )
            from edgeattn.engine.tensorrt.engine_file import build_engine

            return build_engine(
                typed,
                parents,
                request,
                where,
                output=output,
                folder=folder,
                variants=variants,
                verify=verify,
                options=options,
                progress=progress,
            )
        own = {"threads": threads, "precision": precision}
        options |= {name: value for name, value in own.items() if value is not None}
        manifest = build_cpu_engine(
            typed,
            parents,
            output=output,
            folder=folder,
            variants=variants,
            verify=verify,
            dry_run=dry_run,
            options=options,
            report={"engine_choice": choice} if choice else {},
            step=step,
            progress=progress,
        )
    return manifest if dry_run else output


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


def _settle(request: TensorRtRequest, *, dry_run: bool) -> Destination:
    """Settle what a TensorRT engine is for, before minutes of work on the graph."""
    from edgeattn.engine.tensorrt.destination import build_for, plan_for

    settle = plan_for if dry_run else build_for
    return settle(request.target, request.jetpack, request.tensorrt_version)


def _predicted(where: Destination, precision: str | None) -> RememberedChoice:
    """Choose by prediction which attention of all tokens to all is to be our plugin's."""
    from edgeattn.engine.tensorrt.global_attention import global_choice, gpu_of

    return RememberedChoice(global_choice(gpu_of(where), where.version, precision))


def _why_not_tensorrt(is_installed: bool) -> str:
    if not is_installed:
        return "TensorRT is not installed here"
    return "" if local_architectures() else "there is no GPU here"


class _Steps:
    """Counts steps for a progress callback."""

    def __init__(self, progress: Progress | None, total: int | None) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total, what)
        self._done += 1
