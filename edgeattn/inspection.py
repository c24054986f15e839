"""`inspect`: what any file of the toolkit is, and where it comes from."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from edgeattn.artifacts import (
    Manifest,
    manifest_path,
    open_for_reading,
    read_json,
    read_manifest,
    sha256_of_file,
)
from edgeattn.bundle.read import Bundle, is_bundle
from edgeattn.calibration.checkpoint import CalibrationState
from edgeattn.calibration.table import CalibTable
from edgeattn.calibration.trt_cache import TrtCalibCache
from edgeattn.errors import ArtifactError, MissingDependencyError
from edgeattn.graph.files import (
    embedded_manifest,
    graph_sha256,
    load_graph,
    value_dtype,
    value_shape,
    weights_bytes,
)
from edgeattn.graph.op import attention_nodes, spec_of_node


def describe(path: Path | str) -> dict[str, Any]:
    """Describe a graph, table, engine, report, bundle, weights file or state of a calibration.

    A calibration cache of TensorRT is known too, by its first bytes.

    Args:
        path: The file; any ONNX graph will do.

    Returns:
        JSON values: `kind`, `sha256`, the manifest, and what is particular to the kind.

    Raises:
        ArtifactError: If the file is missing, or nothing that the toolkit knows.
        GraphError: If it is an ONNX file, but not a whole one.
        TableError: If it is a calibration table or cache, but a malformed one.
    """
    path = Path(path)
    sha256 = sha256_of_file(path)
    described: dict[str, Any] = {"file": path.name, "size_bytes": path.stat().st_size}
    if path.suffix == ".state":  # a ZIP file too
        return described | {"sha256": sha256, "kind": "calibration-state"} | _describe_state(path)
    if is_bundle(path):
        return described | {"sha256": sha256, "kind": "bundle"} | _describe_bundle(path)
    if path.suffix == ".json":
        return described | {"sha256": sha256} | _describe_json(path)
    if path.suffix == ".safetensors":
        return described | {"sha256": sha256} | _describe_weights(path)
    if (cache := _describe_trt_cache(path)) is not None:
        return described | {"sha256": sha256} | cache
    if path.suffix == ".engine" and manifest_path(path).exists():
        manifest = read_manifest(path)
        return described | {"sha256": sha256, "kind": "engine"} | _describe_manifest(manifest)
    graph = load_graph(path)
    found = embedded_manifest(graph, str(path))
    return (
        described
        | {"sha256": graph_sha256(path), "kind": "graph"}
        | _describe_graph(graph)
        | (_describe_manifest(found) if found else {})
    )


def _describe_manifest(manifest: Manifest) -> dict[str, Any]:
    kept = ("parents", "target", "options", "report", "tools", "format_version")
    values = manifest.to_dict()
    return {"manifest": {name: values[name] for name in kept if values[name]}}


def _describe_bundle(path: Path) -> dict[str, Any]:
    with Bundle.open(path) as bundle:
        values = bundle.manifest.to_dict()
        described = _describe_manifest(bundle.manifest.manifest)
        is_signed = bool(bundle.signature)
    return described | {
        "name": values["name"],
        "signed": is_signed,
        "build": values["build"],
        "tolerances": values["tolerances"],
        "entries": values["entries"],
    }


def _describe_json(path: Path) -> dict[str, Any]:
    values = read_json(path, "a file of the toolkit")
    if not isinstance(values, dict):
        raise ArtifactError(f"{path} is not a file of the toolkit")
    manifest = Manifest.from_dict(values.get("manifest", values), str(path))
    described: dict[str, Any] = {"kind": manifest.kind} | _describe_manifest(manifest)
    if manifest.kind == "table":
        table = CalibTable.load(path)
        described |= {"method": table.method, "tensors": len(table.tensors)}
        described["ranges"] = [
            {"tensor": name, **entry.to_dict()} for name, entry in table.tensors.items()
        ]
    if manifest.kind == "report":
        kept = ("mode", "latency", "throughput_qps", "inputs", "figures", "warnings")
        described |= {name: values[name] for name in kept if name in values}
    return described


def _describe_state(path: Path) -> dict[str, Any]:
    state = CalibrationState.load(path)
    return _describe_manifest(state.manifest) | {"samples_read": len(state.digests)}


def _describe_trt_cache(path: Path) -> dict[str, Any] | None:
    """Describe TensorRT's calibration cache, whatever it is called; `None` for another file."""
    with open_for_reading(path) as stream:
        if stream.read(4) != b"TRT-":
            return None
    cache = TrtCalibCache.load(path)
    described = {"kind": "trt_calib_cache", "header": cache.header}
    if manifest_path(path).exists():  # beside a cache that one of our calibrators keeps
        described |= _describe_manifest(read_manifest(path))
    return described | {"tensors": len(cache.quant_scales)}


def _describe_graph(graph: onnx.ModelProto) -> dict[str, Any]:
    weights = {tensor.name for tensor in graph.graph.initializer}
    operators = Counter(node.op_type for node in graph.graph.node)
    return {
        "opsets": {o.domain or "ai.onnx": o.version for o in graph.opset_import},
        "inputs": [_describe_value(v) for v in graph.graph.input if v.name not in weights],
        "outputs": [_describe_value(v) for v in graph.graph.output],
        "nodes": len(graph.graph.node),
        "operators": dict(operators.most_common()),
        "weights_bytes": weights_bytes(graph),
        "attention": [
            {"name": node.name, "groups": [asdict(g) for g in spec_of_node(node).head_groups]}
            for node in attention_nodes(graph)
        ],
    }


def _describe_value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    return {"name": value.name, "dtype": value_dtype(value), "shape": list(value_shape(value))}


def _describe_weights(path: Path) -> dict[str, Any]:
    try:
        import safetensors
    except ImportError as err:
        raise MissingDependencyError(
            f"reading {path} needs safetensors, which cannot be imported: {err}",
            'pip install "edgeattn[export]"',
        ) from err
    try:
        with safetensors.safe_open(path, framework="numpy") as weights:
            names = weights.keys()
            shapes = {name: list(weights.get_slice(name).get_shape()) for name in names}
            metadata = weights.metadata() or {}
    except safetensors.SafetensorError as err:
        raise ArtifactError(f"{path} is not a whole safetensors file: {err}") from err
    parameters = sum(math.prod(shape) for shape in shapes.values())
    return {"kind": "weights", "metadata": metadata, "parameters": parameters, "tensors": shapes}
