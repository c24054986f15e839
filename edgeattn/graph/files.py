"""ONNX files: reading them with a clear refusal, writing them whole, hashing them with weights.

A graph larger than protobuf's 2 GB keeps its weights in one file beside it, `NAME.onnx.data`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from edgeattn.artifacts import Manifest, atomic_artifact, open_for_reading, sha256_of_file
from edgeattn.errors import ArtifactError, GraphError
from edgeattn.graph.parts import write_in_parts
from edgeattn.inputs import ImagePreprocess, InputSpec

MANIFEST_KEY = "edgeattn.manifest"

# Protobuf refuses messages of 2 GiB; the rest of the graph needs some room.
MAX_INLINE_BYTES = 2_000_000_000
# What is larger is written in parts.
_AT_ONCE_BYTES = 1 << 27

_DTYPES_BEYOND_NUMPY: dict[int, str] = {
    onnx.TensorProto.UNDEFINED: "unknown",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.STRING: "string",
}


def load_graph(path: Path | str) -> onnx.ModelProto:
    """Read an ONNX file with its weights, which are constants: no input stands for one of them.

    Raises:
        ArtifactError: If the file or its external data is missing.
        GraphError: If it is not a whole ONNX graph, or has weights outside its folder.
    """
    path = Path(path)
    model = _parse(path)
    for file in _external_files(model, path):
        if not file.exists():
            raise ArtifactError(
                f"the weights of {path} are missing: there is no file {file}",
                "keep the two files together",
            )
    try:
        load_external_data_for_model(model, str(path.absolute().parent))
    except Exception as err:  # onnx raises its own and built-in types for a bad location or size
        raise GraphError(f"the weights of {path} cannot be read: {err}") from err
    _own_weights(model)
    return model


def _own_weights(model: onnx.ModelProto) -> None:
    """Take the inputs that have a value of their own out of a graph's inputs, in place.

    Before version 4 of the format every weight had to be listed as an input too, and exporters can
    still be asked for it. Nothing here ever gives such an input another value.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 4)


def _parse(path: Path) -> onnx.ModelProto:
    with open_for_reading(path) as stream:
        data = stream.read()
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as err:
        raise GraphError(
            f"{path} is not a whole ONNX file: {err}", "it may be truncated; export it again"
        ) from err
    if not model.graph.node or not model.opset_import:
        raise GraphError(f"{path} is not an ONNX graph: it has no node or names no opset")
    return model


def _external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """List the files beside a graph that hold its weights.

    Raises:
        GraphError: If one lies outside the graph's folder.
    """
    entries = (
        entry.value
        for tensor in _tensors(model.graph)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    )
    locations = sorted(set(entries))
    for location in locations:
        if Path(location).is_absolute() or ".." in Path(location).parts:
            raise GraphError(
                f"{path} keeps weights outside its folder, in {location}; they are not read",
                "save it again with its weights beside it",
            )
    return [path.parent / location for location in locations]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """List the weights and constants of a graph and of its control flow."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for body in (attribute.g, *attribute.graphs):
                yield from _tensors(body)


def weights_bytes(model: onnx.ModelProto) -> int:
    """Count the bytes of a graph's weights; unlike `ByteSize`, beyond protobuf's limit too."""
    return sum(len(t.raw_data) or t.ByteSize() for t in model.graph.initializer)


def write_graph(model: onnx.ModelProto, file: Path, data: Path, data_name: str) -> None:
    """Write a graph to one file and its larger weights to another.

    Args:
        model: Its larger weights are moved out of it, so that memory holds them once.
        file: The ONNX file.
        data: The file of the weights.
        data_name: What the graph shall call that file.
    """
    with data.open("wb") as stream:
        _move_weights(model, stream, data_name)
    file.write_bytes(model.SerializeToString(deterministic=True))


def save_graph(model: onnx.ModelProto, path: Path | str, manifest: Manifest) -> Path:
    """Write a graph with its manifest inside and beside it.

    Weights go to `NAME.onnx.data` if the file would pass protobuf's limit. The files appear
    together and whole, or not at all.

    Args:
        model: Its properties are changed; weights that go to their own file are moved out of it.
        path: File to write.
        manifest: What to say of it.

    Raises:
        ArtifactError: If the folder is not writable.
    """
    path = Path(path)
    onnx.helper.set_model_props(model, _props(model) | {MANIFEST_KEY: _dump(manifest)})
    beside = [path.name + ".data"] if weights_bytes(model) > MAX_INLINE_BYTES else []
    with atomic_artifact(path, manifest, *beside) as (file, *data):
        if data:
            write_graph(model, file, data[0], beside[0])
        elif weights_bytes(model) > _AT_ONCE_BYTES:
            with file.open("wb") as stream:
                write_in_parts(model, stream)
        else:
            file.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _move_weights(model: onnx.ModelProto, stream: Any, location: str) -> None:
    """Write the raw data of large weights to a stream, leaving references in the graph."""
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < 1024:
            continue
        offset = -(-stream.tell() // 4096) * 4096  # readers map the file; pages are 4 KiB
        stream.seek(offset)
        stream.write(tensor.raw_data)
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)


def graph_files(path: Path | str) -> list[Path]:
    """List an ONNX file and, behind it, the files below its folder that hold its weights.

    Raises:
        ArtifactError: If the file is missing.
        GraphError: If it is not a whole ONNX graph, or has weights outside its folder.
    """
    path = Path(path)
    return [path, *_external_files(_parse(path), path)]


def graph_sha256(path: Path | str) -> str:
    """Hash an ONNX file with its external weights.

    Raises:
        ArtifactError: If a file is missing.
        GraphError: If it is not a whole ONNX graph, or has weights outside its folder.
    """
    path, *external = graph_files(path)
    if not external:
        return sha256_of_file(path)
    digest = hashlib.sha256(sha256_of_file(path).encode())
    for file in external:
        digest.update(sha256_of_file(file).encode())
    return digest.hexdigest()


def embedded_manifest(model: onnx.ModelProto, source: str) -> Manifest | None:
    """Read the manifest inside a graph; `None` if the toolkit did not write the graph.

    Raises:
        ArtifactError: If it is malformed or of an unknown format version.
    """
    text = _props(model).get(MANIFEST_KEY)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except ValueError as err:
        raise ArtifactError(f"{source} holds a malformed manifest: {err}") from err
    return Manifest.from_dict(values, source)


def input_specs(model: onnx.ModelProto) -> tuple[InputSpec, ...]:
    """Describe the graph's inputs, with the preprocessing that its manifest names.

    Raises:
        ArtifactError: If the manifest is malformed or of an unknown format version.
        SpecError: If an input is of a type that the toolkit cannot feed.
    """
    preprocess = _preprocessing(embedded_manifest(model, "the graph"))
    weights = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        InputSpec(value_shape(value), value.name, value_dtype(value), preprocess.get(value.name))
        for value in model.graph.input
        if value.name not in weights
    )


def _preprocessing(manifest: Manifest | None) -> dict[str, ImagePreprocess]:
    """Read how images become each input, by name."""
    described = manifest.options.get("inputs", []) if manifest else []
    try:
        return {
            entry["name"]: ImagePreprocess(**entry["preprocess"])
            for entry in described
            if entry.get("preprocess")
        }
    except (TypeError, KeyError, AttributeError, ValueError) as err:
        raise ArtifactError(
            f"the graph's manifest describes its inputs wrongly: {err}", "export it again"
        ) from err


def value_shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Shape of a graph input or output; unnamed unknown sizes are called `dim0`, `dim1`."""
    dims = value.type.tensor_type.shape.dim
    return tuple(
        d.dim_value if d.HasField("dim_value") else (d.dim_param or f"dim{i}")
        for i, d in enumerate(dims)
    )


def value_dtype(value: onnx.ValueInfoProto) -> str:
    """Name in numpy of the element type of a graph input or output.

    `bfloat16` and `string` have no such name, and what is not a tensor is `unknown`.
    """
    element = value.type.tensor_type.elem_type
    if element in _DTYPES_BEYOND_NUMPY:
        return _DTYPES_BEYOND_NUMPY[element]
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)).name


def _props(model: onnx.ModelProto) -> dict[str, str]:
    return {prop.key: prop.value for prop in model.metadata_props}


def _dump(manifest: Manifest) -> str:
    return json.dumps(manifest.to_dict(), sort_keys=True, allow_nan=False)
