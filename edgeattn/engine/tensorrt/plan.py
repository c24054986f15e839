"""The plan of a build: everything that would be built, known before TensorRT has run.

`edgeattn build --dry-run` prints it. It needs neither TensorRT nor a GPU, so that a laptop can tell
what a board will be asked to do.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

from edgeattn.artifacts import manifest_path
from edgeattn.engine.base import TensorSpec
from edgeattn.engine.tensorrt.destination import Destination
from edgeattn.engine.tensorrt.lowering import AttentionWay, LoweredAttention, LoweredForTensorRt
from edgeattn.engine.tensorrt.memory import MemoryFinding
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.products import product_types
from edgeattn.engine.tensorrt.trtexec import trtexec_command
from edgeattn.graph.files import value_dtype, value_shape
from edgeattn.graph.nodes import standard_opset
from edgeattn.plugin.build import PLUGIN as _PLUGIN


@dataclass(frozen=True)
class PluginNeed:
    """The plugin library that the engine needs.

    Attributes:
        library: The file that would be loaded; empty if it is not here.
        build_command: The command that makes it.
        embedded: Whether the engine will carry it.
    """

    library: str
    build_command: str
    embedded: bool


@dataclass(frozen=True)
class BuildPlan:
    """What a build would do.

    Attributes:
        graph: The ONNX file.
        files: What would be written.
        destination: TensorRT, GPU and board that it is for.
        way: How attention is computed.
        attention: Each attention of the model.
        precision: What the graph asks for, in a word.
        products: Names of the layers with matrix products, by the type they are computed in.
        nodes: Nodes of the lowered graph.
        opset: Its opset.
        weights_bytes: Bytes of its weights.
        largest_tensor: Name of the largest of them.
        largest_bytes: Its bytes.
        inputs: Tensors that a query needs.
        outputs: Tensors that it yields.
        profiles: Shapes that the engine takes, profile by profile.
        are_shapes_exported: Whether nobody gave them, and they are those of the export.
        plugin: The library needed; `None` if no node asks for it.
        options: Options of the build, defaults included.
        faults: What this TensorRT would refuse, or silently compute in float.
        memory: What speaks against a build in this machine's memory; none for another machine.
        trtexec: The same build as arguments of trtexec.
        fusion: What became of attention that the graph writes out, see `edgeattn.engine.fusing`.
        candidates: Engines that would be tried, the first of which is the one described here; none
            if it is the only one.
    """

    graph: str
    files: tuple[str, ...]
    destination: Destination
    way: AttentionWay
    attention: tuple[LoweredAttention, ...]
    precision: str
    products: Mapping[str, tuple[str, ...]]
    nodes: int
    opset: int
    weights_bytes: int
    largest_tensor: str
    largest_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[ShapeProfile, ...]
    are_shapes_exported: bool
    plugin: PluginNeed | None
    options: Mapping[str, Any]
    faults: tuple[str, ...]
    memory: tuple[MemoryFinding, ...]
    trtexec: tuple[str, ...]
    fusion: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Turn the plan into JSON values."""
        where = self.destination
        values = {name: getattr(self, name) for name in _PLAIN}
        return {
            "dry_run": True,
            "engine": "tensorrt",
            "target": where.target.name if where.target else None,
            "jetpack": where.jetpack.version if where.jetpack else None,
            "tensorrt": str(where.version),
            "tensorrt_reason": where.version_reason,
            "architectures": list(where.architectures),
            **values,
            "products": {name: list(layers) for name, layers in self.products.items()},
            "attention": [asdict(each) for each in self.attention],
            "inputs": [_tensor(spec) for spec in self.inputs],
            "outputs": [_tensor(spec) for spec in self.outputs],
            "profiles": [profile.to_dict() for profile in self.profiles],
            "plugin": asdict(self.plugin) if self.plugin else None,
            "memory": [asdict(finding) for finding in self.memory],
            "trtexec": shlex.join(self.trtexec),
        }


_PLAIN = (
    *("graph", "files", "way", "precision", "nodes", "opset", "weights_bytes"),
    *("largest_tensor", "largest_bytes", "are_shapes_exported", "options", "faults", "fusion"),
    "candidates",
)


def make_plan(
    lowered: LoweredForTensorRt,
    options: TensorRtOptions,
    destination: Destination,
    *,
    graph: Path,
    output: Path,
    are_shapes_exported: bool = False,
    lowered_graph: Path | None = None,
    library: Path | None = None,
    memory: Sequence[MemoryFinding] = (),
    fusion: Mapping[str, Any] | None = None,
    candidates: Sequence[str] = (),
) -> BuildPlan:
    """Put together what a build would do.

    Args:
        lowered: The graph as TensorRT's parser would get it.
        options: Options of the build, with whole profiles.
        destination: What it is for.
        graph: The ONNX file that it was lowered from.
        output: The engine to be.
        are_shapes_exported: Whether nobody gave shapes, and they are those of the export.
        lowered_graph: Where the lowered graph is written; none if it is not.
        library: The plugin library that would be loaded; none if there is none here.
        memory: What speaks against building it here.
        fusion: What became of attention that the graph writes out.
        candidates: Engines that would be tried, if it is to be autotuned.

    Returns:
        The plan.
    """
    model = lowered.model
    weights = weights_of(model)
    largest = max(weights, key=lambda name: weights[name], default="")
    wants_plugin = any(each.way == "plugin" for each in lowered.attention)
    need = plugin_need(destination, options, library) if wants_plugin else None
    plugin = Path(need.library or _PLUGIN) if need else None
    inputs = tuple(_spec(value) for value in model.graph.input if value.name not in weights)
    # trtexec refuses to be told the shapes of a graph that leaves none open.
    is_free = any(isinstance(dim, str) for spec in inputs for dim in spec.shape)
    ranges = options.profiles if is_free else ()
    parsed = lowered_graph or output.with_suffix(".lowered.onnx")
    return BuildPlan(
        graph.name,
        (output.name, manifest_path(output).name, log_path(output).name),
        destination,
        lowered.way,
        lowered.attention,
        lowered.precision,
        product_types(model),
        len(model.graph.node),
        standard_opset(model),
        sum(weights.values()),
        largest,
        weights.get(largest, 0),
        inputs,
        tuple(_spec(value) for value in model.graph.output),
        options.profiles,
        are_shapes_exported,
        need,
        options.to_dict(),
        lowered.faults,
        tuple(memory),
        tuple(trtexec_command(parsed, output, options, ranges, destination.version, plugin)),
        fusion or {},
        tuple(candidates),
    )


def plugin_need(
    destination: Destination, options: TensorRtOptions, library: Path | None = None
) -> PluginNeed:
    """Say how a destination comes to the plugin library.

    Args:
        destination: What the engine is for.
        options: Options of the build.
        library: The library that would be loaded; none if there is none here.
    """
    where = destination
    command = ["edgeattn", "plugin", "build"]
    if where.target:
        command += ["--target", where.target.name]
        command += ["--jetpack", where.jetpack.version] if where.jetpack else []
    return PluginNeed(str(library or ""), shlex.join(command), options.embed_plugin)


def log_path(output: Path) -> Path:
    """Where the log of an engine's build stands: `net.engine` → `net.engine.log`."""
    return output.with_name(output.name + ".log")


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    return TensorSpec(value.name, value_dtype(value), value_shape(value))


def weights_of(model: onnx.ModelProto) -> dict[str, int]:
    """Count the bytes of each weight, by name."""
    return {t.name: len(t.raw_data) or t.ByteSize() for t in model.graph.initializer}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
