"""The graph that an engine was built from, lowered once more as its build did."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgeattn.artifacts import Manifest
from edgeattn.engine.sources import Sources, find_sources
from edgeattn.engine.tensorrt.lowering import LoweredForTensorRt, lower_for_tensorrt
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.engine.typed import fusing_of, make_typed
from edgeattn.errors import ArtifactError, SpecError


def lower_again(plan: Path, manifest: Manifest, folder: Path | None = None) -> LoweredForTensorRt:
    """Give the graph that TensorRT's parser read, made anew from the files beside the engine.

    Args:
        plan: The engine.
        manifest: Its manifest.
        folder: Where to look for the files besides.

    Raises:
        ArtifactError: If a file is missing or another one, or the manifest is malformed.
        BuildError: If this version of the toolkit lowers it no more.
        GraphError: If the graph is malformed.
        TableError: If the table belongs to another graph.
    """
    sources = find_sources(plan, manifest, folder)
    lowered = _lower(plan, manifest, sources)
    if lowered.precision == manifest.options.get("precision"):
        return lowered
    return _lower(plan, manifest, sources, manifest.options["precision"])


def quantized_to(plan: Path, manifest: Manifest, sources: Sources) -> str | None:
    """Tell to which precision the build quantized the graph on the way; `None` if it did not.

    Raises:
        ArtifactError: If the manifest is malformed.
        BuildError: If this version of the toolkit lowers the graph no more.
        GraphError: If the graph is malformed.
    """
    built = manifest.options.get("precision")
    return None if _lower(plan, manifest, sources).precision == built else built


def _lower(
    plan: Path, manifest: Manifest, sources: Sources, precision: str | None = None
) -> LoweredForTensorRt:
    try:
        version = TensorRtVersion.parse(manifest.report["tensorrt"])
        way = manifest.report["attention_way"]
    except (KeyError, TypeError, AttributeError, SpecError) as err:
        raise ArtifactError(
            f"the manifest of {plan} does not say how the engine was built: {err!r}",
            "build the engine again",
        ) from err
    fusing = fusing_of(manifest)
    with tempfile.TemporaryDirectory(prefix="edgeattn-") as name:
        typed = make_typed(
            sources.graph,
            Path(name),
            table=sources.table,
            precision=precision,
            fuse=fusing.fuse,
            global_attention=fusing.global_attention,
        )
    return lower_for_tensorrt(typed.model, version, way=way)
