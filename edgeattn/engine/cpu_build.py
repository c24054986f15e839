"""From a graph to a CPU engine: lower it, choose the INT8 arithmetic, describe it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import convert_model_to_external_data, write_external_data_tensors

from edgeattn.artifacts import Manifest, Parent, tool_versions
from edgeattn.engine.cpu import CpuEngine, thread_count
from edgeattn.engine.cpu_int8 import choose_arithmetic, is_quantized
from edgeattn.engine.cpu_lowering import half_arithmetic, lower_for_cpu
from edgeattn.engine.cpu_samples import samples_apart
from edgeattn.engine.host import cpu_features
from edgeattn.graph.files import MAX_INLINE_BYTES, embedded_manifest, input_specs, weights_bytes
from edgeattn.graph.finite import check_finite
from edgeattn.graph.op import attention_nodes
from edgeattn.graph.passes.free_batch import fixed_batch


@dataclass(frozen=True)
class LoweredGraph:
    """A graph in the form that the CPU engine runs.

    Attributes:
        data: Standard ONNX.
        manifest: What the engine's manifest will say.
        weights_folder: Where its external weights lie; `None` if it has none.
    """

    data: bytes
    manifest: Manifest
    weights_folder: Path | None

    def open(self, threads: int | None = None) -> CpuEngine:
        """Make the engine; see `CpuEngine`."""
        return CpuEngine(
            self.data, self.manifest, threads=threads, weights_folder=self.weights_folder
        )


def lower(
    model: onnx.ModelProto,
    parents: Mapping[str, Parent],
    *,
    weights: Path,
    options: Mapping[str, Any] | None = None,
) -> LoweredGraph:
    """Lower a graph for the CPU; if it is INT8, choose its arithmetic on this processor.

    Args:
        model: The graph, weights included.
        parents: Files it was made from, for the manifest.
        weights: File to write the weights to if the graph is too large to hold them.
        options: Options of the build, for the manifest; `threads` is one that engines heed.

    Raises:
        EngineError: If ONNX Runtime refuses the graph.
        GraphError: If an attention node is malformed, or a weight is NaN or infinite.
    """
    check_finite(model)
    described: dict[str, Any] = {"engine": "cpu"}
    source = embedded_manifest(model, "the graph")
    if source is not None and "precision" in source.options:
        described["precision"] = source.options["precision"]
    described["inputs"] = [asdict(spec) for spec in input_specs(model)]
    attention = len(attention_nodes(model))
    lowered = lower_for_cpu(model)
    batch, freed = fixed_batch(lowered), None
    if batch > 1 and weights_bytes(lowered) <= MAX_INLINE_BYTES:
        freed = samples_apart(lowered)
    lowered = freed or lowered
    weights_folder = _move_weights(lowered, weights)
    counts = Counter(node.op_type for node in lowered.graph.node)
    manifest = Manifest(
        "engine",
        dict(parents),
        target="cpu",
        options=described | dict(options or {}),
        report={
            "attention_nodes_lowered": attention,
            "nodes": dict(sorted(counts.items())),
            "half_arithmetic": half_arithmetic(model),
            "samples_apart": batch if freed else None,
            "cpu_features": list(cpu_features()),
        },
    )
    graph = LoweredGraph(lowered.SerializeToString(deterministic=True), manifest, weights_folder)
    return choose_int8(graph) if is_quantized(lowered) else graph


def choose_int8(graph: LoweredGraph) -> LoweredGraph:
    """Choose the arithmetic of a Q/DQ graph on this processor and write it into the manifest.

    Raises:
        EngineError: If ONNX Runtime refuses the graph.
    """
    manifest = graph.manifest
    threads = thread_count(manifest.options.get("threads"))
    chosen = choose_arithmetic(graph.data, manifest, threads, graph.weights_folder)
    report = manifest.report | chosen.to_report() | {"cpu_features": list(cpu_features())}
    return replace(graph, manifest=replace(manifest, report=report))


def was_tried_here(manifest: Manifest) -> bool:
    """Tell whether the INT8 arithmetic of an engine was chosen for kernels like those here."""
    here, there = tool_versions().get("onnxruntime"), manifest.tools.get("onnxruntime")
    return manifest.report.get("cpu_features") == list(cpu_features()) and here == there


def _move_weights(model: onnx.ModelProto, file: Path) -> Path | None:
    """Move the weights of a graph beyond protobuf's limit into a file beside it."""
    if weights_bytes(model) <= MAX_INLINE_BYTES:
        return None
    convert_model_to_external_data(model, location=file.name, size_threshold=1024)
    write_external_data_tensors(model, str(file.parent))
    return file.parent
