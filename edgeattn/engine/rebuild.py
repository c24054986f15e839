"""Build an engine once more as it was built: the same graph, the same options, the same checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.artifacts import Manifest, read_manifest
from edgeattn.engine.build import build
from edgeattn.engine.sources import Sources
from edgeattn.engine.typed import BEFORE_CHOICES, fusing_of, make_typed
from edgeattn.errors import BuildError
from edgeattn.graph.files import embedded_manifest, load_graph

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.request import TensorRtRequest

Progress = Callable[[int, "int | None", str], None]

# What a second build does otherwise on purpose: what won a race is built without another one, and
# see `edgeattn.engine.tensorrt.rebuild`.
_OTHERWISE = {"attention", "tensorrt.timing_cache", "tensorrt.no_timing_cache", "tensorrt.plugin"}


def rebuild(
    engine: Path,
    sources: Sources,
    output: Path,
    *,
    plugin: Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Build an engine once more.

    Args:
        engine: The engine.
        sources: What it was made from.
        output: The engine to write.
        plugin: The plugin library of a TensorRT engine, if it is not where it was.
        progress: Called with steps done, steps in all, and the step at hand.

    Returns:
        The manifest of the new engine.

    Raises:
        ArtifactError: If the engine's manifest is malformed.
        BuildError: If it cannot be built as it was; also if something else came out.
        EdgeAttnError: What `edgeattn.engine.build.build` raises.
    """
    manifest = read_manifest(engine, verify=False)
    request: TensorRtRequest | None = None
    if manifest.target == "tensorrt":
        from edgeattn.engine.tensorrt.rebuild import request_again

        request = request_again(engine, manifest, plugin=plugin)
    precision = _quantized_to(engine, manifest, sources)
    fusing = fusing_of(manifest)
    choice = fusing.global_attention
    build(
        sources.graph,
        output,
        engine=manifest.target,
        table=sources.table,
        precision=precision,
        fuse=fusing.fuse,
        # What was predicted for this machine is predicted for it again.
        global_attention=choice if isinstance(choice, bool) else None,
        verify="verify" in manifest.report,
        threads=manifest.options.get("threads"),
        tensorrt=request,
        progress=progress,
    )
    built = read_manifest(output, verify=False)
    for name, was, now in _differences(BEFORE_CHOICES | manifest.options, built.options):
        if name not in _OTHERWISE:
            raise BuildError(
                f"{engine} cannot be built as it was: {name} was {was!r} and is {now!r}",
                "another version of edgeattn may have built it; build it again with this one",
            )
    return built


def typed_graph(engine: Path, sources: Sources, folder: Path) -> Path:
    """Give the graph in the precision that an engine was built in.

    Args:
        engine: The engine.
        sources: What it was made from.
        folder: Where to write the graph if it was quantized on the way.

    Raises:
        EdgeAttnError: What `edgeattn.engine.typed.make_typed` raises.
    """
    manifest = read_manifest(engine, verify=False)
    precision = _quantized_to(engine, manifest, sources)
    if precision is None:
        return sources.graph
    fusing = fusing_of(manifest)
    return make_typed(
        sources.graph,
        folder,
        table=sources.table,
        precision=precision,
        fuse=fusing.fuse,
        global_attention=fusing.global_attention,
    ).file


def _quantized_to(engine: Path, manifest: Manifest, sources: Sources) -> str | None:
    """Tell to which precision a build quantized the graph on the way; `None` if it did not."""
    if manifest.target == "tensorrt":
        from edgeattn.engine.tensorrt.built_from import quantized_to

        return quantized_to(engine, manifest, sources)
    source = embedded_manifest(load_graph(sources.graph), str(sources.graph))
    has, built = source and source.options.get("precision"), manifest.options.get("precision")
    return None if has == built else built


def _differences(
    was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """List the options in which two builds differ, with both values."""
    for name in {**was, **now}:
        old, new = was.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield prefix + name, old, new
