"""From the graph that a user has to the typed graph that is lowered: fused, then quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgeattn.artifacts import Manifest
from edgeattn.engine.fusing import fuse_for_build
from edgeattn.engine.repeated_choice import repeated_choice
from edgeattn.graph.files import load_graph
from edgeattn.graph.fuse import write_fused
from edgeattn.graph.fusion.found import GlobalChoice

Step = Callable[[str], None]

# What engines are that do not say: they were built before there was a choice.
BEFORE_CHOICES = {"fuse": False, "global_attention": False}


@dataclass(frozen=True)
class TypedGraph:
    """What is lowered for an engine.

    Attributes:
        model: The graph, in the precision that the engine shall have.
        file: What the engine is to be checked against: the file given, or where that was quantized
            on the way the result.
        fusion: What became of attention that the file given writes out, see `fuse_for_build`.
    """

    model: onnx.ModelProto
    file: Path
    fusion: Mapping[str, Any]


def make_typed(
    graph: Path,
    folder: Path,
    *,
    table: Path | str | None = None,
    precision: str | None = None,
    fuse: bool = False,
    global_attention: bool | GlobalChoice = False,
    step: Step = lambda what: None,
) -> TypedGraph:
    """Fuse a graph and write a precision into it, as far as each is asked for.

    A table belongs to the graph as it is written, so that with one nothing is fused.

    Args:
        graph: The ONNX file.
        folder: Temporary folder, for the graphs on the way.
        table: Its calibration table.
        precision: As `quantize` takes it.
        fuse: Whether to fuse window attention.
        global_attention: What to fuse of attention of all tokens to all, as
            `fuse_window_attention` takes it.
        step: Called with the name of each step before it begins: one, or two with a precision.

    Raises:
        ArtifactError: If a file is missing, or the folder is not writable.
        GraphError: If the graph is malformed.
        SpecError: If the precision is unknown, or it needs a table.
        TableError: If the table belongs to another graph.
    """
    if precision is not None:
        from edgeattn.calibration.quantize import check_precision

        check_precision(precision, table=table)
    source, fusion = graph, dict[str, Any]()
    fuses_first = fuse and table is None
    if precision is None or fuses_first:
        step("read the graph, fuse attention" if fuses_first else "read the graph")
        model = load_graph(graph)
        if fuses_first:
            model, fusion = fuse_for_build(model, global_attention=global_attention)
        if precision is None:
            return TypedGraph(model, graph, fusion)
        if fusion.get("fused"):
            source = folder / "fused" / graph.name
            source.parent.mkdir(exist_ok=True)
            write_fused(model, graph, source, fusion)
        del model  # a large one is not to be held twice
    from edgeattn.calibration.quantize import quantize

    step("quantize")
    typed = folder / graph.name
    quantize(source, typed, table=table, precision=precision)
    if not fuses_first:
        step("read the graph")
    model = load_graph(typed)
    if fuse and table is not None:
        fusion = fuse_for_build(model, has_table=True)[1]
    return TypedGraph(model, typed, fusion)


@dataclass(frozen=True)
class Fusing:
    """How a graph was fused on the way to an engine.

    Attributes:
        fuse: Whether it was at all.
        global_attention: As `make_typed` takes it.
    """

    fuse: bool
    global_attention: bool | GlobalChoice


def fusing_of(manifest: Manifest) -> Fusing:
    """Read off an engine's manifest how its graph was fused.

    Of an engine that won a race it is how the graph of the winner was fused. Engines that do not
    say were built before there was a choice: without.
    """
    options = BEFORE_CHOICES | manifest.options
    made = options["global_attention"]
    return Fusing(options["fuse"], repeated_choice(made) if isinstance(made, Mapping) else made)
