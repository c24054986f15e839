"""`fuse`: a graph that writes its attention out to one with a node per attention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, overload

import onnx

from edgeattn.artifacts import Manifest, Parent, check_writable
from edgeattn.errors import ArtifactError, GraphError
from edgeattn.graph.files import embedded_manifest, graph_sha256, load_graph, save_graph
from edgeattn.graph.fuse_report import fuse_report, told_reasons
from edgeattn.graph.fusion.found import GlobalChoice
from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention

Progress = Callable[[int, "int | None", str], None]


@overload
def fuse(
    graph: Path | str,
    output: Path | str | None = None,
    *,
    global_attention: bool | GlobalChoice = False,
    require_all: bool = False,
    dry_run: Literal[False] = False,
    progress: Progress | None = None,
) -> Path: ...


@overload
def fuse(
    graph: Path | str,
    output: Path | str | None = None,
    *,
    global_attention: bool | GlobalChoice = False,
    require_all: bool = False,
    dry_run: Literal[True],
    progress: Progress | None = None,
) -> Manifest: ...


def fuse(
    graph: Path | str,
    output: Path | str | None = None,
    *,
    global_attention: bool | GlobalChoice = False,
    require_all: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Path | Manifest:
    """Put an attention node in the place of each window attention that a graph writes out.

    What cannot be said by such a node is left as it is. A graph without window attention is written
    as it was read.

    Args:
        graph: Any ONNX file.
        output: The graph to write; by default `NAME.fused.onnx` beside `NAME.onnx`.
        global_attention: Take attention of every token to every token too, as one window of the
            whole map. An engine that fuses it by itself may be faster; a choice decides for each
            (`edgeattn.engine.tensorrt.global_attention.choice_for_target`).
        require_all: Refuse to leave an attention as it is, for whatever reason.
        dry_run: Write nothing.
        progress: Called with steps done, their number, and the step at hand.

    Returns:
        Path of the new graph; for a dry run the manifest that it would have. Its report counts
        what was fused and left, and lists each attention, see `edgeattn.graph.fuse_report`.

    Raises:
        ArtifactError: If a file is missing or the output's folder is not writable.
        GraphError: If the graph cannot be read, or an attention is left and none may be; nothing
            is written then.
    """
    graph = Path(graph)
    output = graph.with_suffix(".fused.onnx") if output is None else Path(output)
    if not dry_run:
        check_writable(output)
    if output.exists() and graph.exists() and output.samefile(graph):
        raise ArtifactError(f"the output {output} is the graph to fuse", "choose another output")

    def step(done: int, what: str) -> None:
        if progress:
            progress(done, 3, what)

    step(0, "reading")
    parents = {"graph": Parent(graph.name, graph_sha256(graph))}  # before memory holds the graph
    model = load_graph(graph)
    step(1, "fusing")
    fusion = fuse_window_attention(model, global_attention=global_attention, in_place=True)
    report = fuse_report(fusion)
    if require_all and report["left"]:
        raise GraphError(
            f"{report['left']} of {report['found']} attentions cannot be fused: "
            f"{told_reasons(report)}",
            "edgeattn fuse --explain lists them; without --require-all the others are fused",
        )
    asked = global_attention if isinstance(global_attention, bool) else "chosen"
    manifest = _manifest(fusion.model, graph, parents, report, {"global_attention": asked})
    if dry_run:
        return manifest
    step(2, "writing")
    save_graph(fusion.model, output, manifest)
    step(3, "writing")
    return output


def write_fused(model: onnx.ModelProto, graph: Path, output: Path, report: dict[str, Any]) -> Path:
    """Write a graph that was fused on the way to something else.

    Args:
        model: The fused graph; weights that go to their own file are moved out of it.
        graph: The file that it was made from.
        output: File to write.
        report: What `fuse_report` tells.

    Raises:
        ArtifactError: If the folder is not writable.
    """
    parents = {"graph": Parent(graph.name, graph_sha256(graph))}
    return save_graph(model, output, _manifest(model, graph, parents, report, {}))


def _manifest(
    model: onnx.ModelProto,
    graph: Path,
    parents: dict[str, Parent],
    report: dict[str, Any],
    options: dict[str, Any],
) -> Manifest:
    source = embedded_manifest(model, str(graph))
    inherited = source.options if source else {}  # the inputs' preprocessing among them
    return Manifest("graph", parents, options=inherited | options, report=report)
