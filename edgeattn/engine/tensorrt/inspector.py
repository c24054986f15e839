"""What TensorRT's engine inspector tells of an engine, from 10.3 to 11.x, in one form.

The text has two schemas. 10.x lists the names of inputs and outputs under `Bindings` and gives a
tensor's layout and type in one string, `Format/Datatype`; 11.x describes inputs and outputs under
`I/O Tensors` and splits that string in two. In both, a layer is an object if the engine was built
with detailed profiling verbosity, and else a plain string: its name. Each version spells types in
its own ways, and so do TensorRT's parts: `Half` is Myelin's, `Row major linear FP16 format` that of
other layers.

References:
    docs.nvidia.com/deeplearning/tensorrt/11.0.0: "Migrating IEngineInspector Usage".
    NVIDIA/TensorRT, tools/experimental/trt-engine-explorer, trex/activations.py: spellings.
    NVIDIA/TensorRT issues #4020 and #4397: layers of 10.x with their metadata.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from edgeattn.errors import ArtifactError

Schema = Literal["10", "11"]
Verbosity = Literal["detailed", "layer_names", "none"]

# Words that name a type, in lower case: the inspector's own and those of TensorRT's enums.
_DTYPES = {
    "double": "float64",
    "float": "float32",
    "fp32": "float32",
    "float32": "float32",
    "half": "float16",
    "fp16": "float16",
    "float16": "float16",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp8": "float8_e4m3fn",
    "float8": "float8_e4m3fn",
    "e8m0": "float8_e8m0fnu",
    "fp4": "float4_e2m1fn",
    "int4": "int4",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "bool": "bool",
}

# Bits of an element where numpy has no such type.
_BITS = {"bfloat16": 16, "float8_e4m3fn": 8, "float8_e8m0fnu": 8, "float4_e2m1fn": 4, "int4": 4}

_VERBOSITIES: dict[str, Verbosity] = {
    "DETAILED": "detailed",
    "LAYER_NAMES_ONLY": "layer_names",
    "NONE": "none",
}

# One entry ends where a control character or the next entry begins.
_ENTRY_ENDS = re.compile(r"[\x1e\x1f]+|(?<=\])(?=\[ONNX Layer: )")
_ENTRY = re.compile(r"\s*\[ONNX Layer: (.*)\]\s*", re.DOTALL)
_FOREIGN = ("{ForeignNode[", "]}")


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that a layer reads or writes.

    Attributes:
        name: As the engine calls it; several may share a name.
        dims: Its sizes; -1 where they are not known before the engine runs.
        dtype: numpy's (or ml_dtypes') name of its type; empty if the engine does not tell.
        format: What the engine says of its layout, as it says it.
    """

    name: str
    dims: tuple[int, ...]
    dtype: str
    format: str

    @property
    def num_bytes(self) -> int | None:
        """Its size without the padding of its layout; `None` if sizes or type are not known."""
        if not self.dtype or any(size < 0 for size in self.dims):
            return None
        bits = _BITS.get(self.dtype) or np.dtype(self.dtype).itemsize * 8
        return -(-math.prod(self.dims) * bits // 8)


@dataclass(frozen=True)
class EngineLayer:
    """A layer of an engine: mostly one kernel.

    Attributes:
        name: As the engine, its profiler and its log call it.
        layer_type: What the engine calls its kind; empty if it tells names only.
        inputs: What it reads.
        outputs: What it writes.
        tactic: Name of its implementation; empty if it has none or the engine does not tell.
        stream: Which of the engine's streams it runs on; `None` if the engine does not tell.
        onnx_nodes: Names of the graph's nodes that it comes from, each once, as far as the engine
            tells. Without metadata, the parts of the layer's name, which may be nodes.
        raw: The engine's own words.
    """

    name: str
    layer_type: str = ""
    inputs: tuple[LayerTensor, ...] = ()
    outputs: tuple[LayerTensor, ...] = ()
    tactic: str = ""
    stream: int | None = None
    onnx_nodes: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def foreign_range(self) -> tuple[str, str] | None:
        """First and last node of a part of the graph that is one black box; `None` if it is not.

        TensorRT hands such parts to another compiler, Myelin or DLA's, and names them
        `{ForeignNode[first...last]}`.
        """
        before, after = _FOREIGN
        end = self.name.rfind(after)
        if not self.name.startswith(before) or end < 0:
            return None
        first, _, last = self.name[len(before) : end].partition("...")
        return first.strip(), (last or first).strip()

    @property
    def num_bytes(self) -> int | None:
        """What it reads and writes in all; `None` if a size is not known."""
        sizes = [tensor.num_bytes for tensor in (*self.inputs, *self.outputs)]
        return None if None in sizes else sum(size or 0 for size in sizes)


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine.

    Attributes:
        name: Its name.
        mode: Whether it is read or written; empty in the schema of 10.x, which does not tell.
        dims: Its sizes, -1 where they vary; `None` in the schema of 10.x.
        dtype: numpy's name of its type; empty if the engine does not tell.
    """

    name: str
    mode: Literal["input", "output", ""] = ""
    dims: tuple[int, ...] | None = None
    dtype: str = ""


@dataclass(frozen=True)
class EngineInfo:
    """What the inspector tells of an engine.

    Attributes:
        schema: Major version of TensorRT whose schema it has.
        layers: In the order in which they run.
        io: Inputs and outputs.
        verbosity: How much the engine was built to tell.
    """

    schema: Schema
    layers: tuple[EngineLayer, ...]
    io: tuple[EngineTensor, ...]
    verbosity: Verbosity

    def layers_of(self, nodes: Collection[str]) -> tuple[EngineLayer, ...]:
        """Find the layers that come from any of these nodes of the graph, as far as it tells."""
        wanted = frozenset(nodes)
        return tuple(layer for layer in self.layers if not wanted.isdisjoint(layer.onnx_nodes))

    def black_boxes_of(
        self, nodes: Collection[str], order: Sequence[str]
    ) -> tuple[EngineLayer, ...]:
        """Find the black boxes that may hold any of these nodes, by their first and last node.

        Args:
            nodes: Names of nodes of the graph.
            order: Names of all its nodes in their order.
        """
        place = {name: index for index, name in enumerate(order)}
        wanted = [place[name] for name in nodes if name in place]
        boxes = []
        for layer in self.layers:
            found = [_place(end, place) for end in layer.foreign_range or ()]
            ends = [end for end in found if end is not None]
            if len(ends) == 2 and any(min(ends) <= each <= max(ends) for each in wanted):
                boxes.append(layer)
        return tuple(boxes)


def parse_engine_info(text: str) -> EngineInfo:
    """Read the JSON text of `IEngineInspector::getEngineInformation`.

    trtexec's `--exportLayerInfo` writes the same. Fields that are not known here are kept in `raw`
    and else ignored: each version adds some.

    Raises:
        ArtifactError: If it is not such a text.
    """
    if not text.strip():
        raise _malformed("it is empty")
    try:
        # Not strict: control characters part the entries of metadata.
        values = json.loads(text, strict=False)
    except (ValueError, RecursionError) as err:
        raise _malformed(f"it is no JSON ({err})") from err
    if not isinstance(values, dict):
        raise _malformed(f"it is {_kind(values)}, not an object")
    layers = tuple(_layer(each) for each in _list(values, "Layers", "the engine", required=True))
    is_11 = "I/O Tensors" in values
    if not is_11 and "Bindings" not in values:
        raise _malformed("it has neither Bindings (10.x) nor I/O Tensors (11.x)")
    io = tuple(_io_tensors(values)) if is_11 else tuple(_bindings(values))
    return EngineInfo("11" if is_11 else "10", layers, io, _verbosity(values, layers))


def dtype_of_words(text: str) -> str:
    """Find the type that a description of a tensor names.

    Args:
        text: `Half`, `Int8 linear`, `kBF16`, `Channel major FP32 format where channel % 4 == 0`, …

    Returns:
        numpy's (or ml_dtypes') name; empty if it names none, as `N/A due to dynamic shapes`.
    """
    for word in re.findall(r"[A-Za-z]+[0-9]*", text):
        name = word.lower()
        found = _DTYPES.get(name) or _DTYPES.get(name.removeprefix("k"))
        if found:
            return found
    return ""


def _layer(value: Any) -> EngineLayer:
    if isinstance(value, str):
        return EngineLayer(value, onnx_nodes=_nodes_of_name(value))
    if not isinstance(value, dict):
        raise _malformed(f"a layer is {_kind(value)}, not an object or a name")
    name = _text(value, "Name", "a layer", required=True)
    owner = f"layer {_short(name)}"
    stream = value.get("StreamId")
    if stream is not None and type(stream) is not int:
        raise _malformed(f"StreamId of {owner} is {_kind(stream)}, not a whole number")
    nodes = _nodes_of_metadata(_text(value, "Metadata", owner))
    return EngineLayer(
        name,
        _text(value, "LayerType", owner),
        tuple(_tensor(each, owner) for each in _list(value, "Inputs", owner)),
        tuple(_tensor(each, owner) for each in _list(value, "Outputs", owner)),
        _text(value, "TacticName", owner),
        stream,
        nodes or _nodes_of_name(name),
        value,
    )


def _nodes_of_metadata(metadata: str) -> tuple[str, ...]:
    matches = (_ENTRY.fullmatch(part) for part in _ENTRY_ENDS.split(metadata))
    return tuple(dict.fromkeys(match[1] for match in matches if match and match[1]))


def _nodes_of_name(name: str) -> tuple[str, ...]:
    """Split the name of a layer that several nodes were fused into: `a + PWN(b)`."""
    if _FOREIGN[0] in name or name.startswith("Reformatting "):
        return ()  # a black box, of which the ends are known; a copy for another layer
    parts: list[str] = []
    for part in name.split(" + "):
        # PWN is a pointwise kernel, and they nest.
        parts += re.sub(r"PWN\(|\)", "", part).split(", ") if "PWN(" in part else [part]
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _tensor(value: Any, owner: str) -> LayerTensor:
    if not isinstance(value, dict):
        raise _malformed(f"a tensor of {owner} is {_kind(value)}, not an object")
    name = _text(value, "Name", f"a tensor of {owner}")
    owner = f"tensor {_short(name)} of {owner}"
    both = _text(value, "Format/Datatype", owner)
    layout = _text(value, "Format", owner) or both
    return LayerTensor(name, _dims(value, owner), _dtype(value, owner) or _read(both), layout)


def _dtype(value: Mapping[str, Any], owner: str) -> str:
    """Read a tensor's type in the schema of 11.x, where it stands alone, in two spellings."""
    return _read(_text(value, "DataType", owner) or _text(value, "Datatype", owner))


def _read(text: str) -> str:
    return dtype_of_words(text) if text else ""


def _dims(value: Mapping[str, Any], owner: str) -> tuple[int, ...]:
    dims = _list(value, "Dimensions", owner)
    for size in dims:
        if type(size) is not int or not -1 <= size < 2**63:
            raise _malformed(f"Dimensions of {owner} hold {_short(size)}, not a size or -1")
    return tuple(dims)


def _place(end: str, place: Mapping[str, int]) -> int | None:
    """Find where the first or last layer of a black box comes from: it may hold several nodes."""
    return next((place[part] for part in _nodes_of_name(end) if part in place), None)


def _bindings(values: Mapping[str, Any]) -> Iterator[EngineTensor]:
    for name in _list(values, "Bindings", "the engine"):
        if not isinstance(name, str):
            raise _malformed(f"a binding is {_kind(name)}, not a name")
        yield EngineTensor(name)


def _io_tensors(values: Mapping[str, Any]) -> Iterator[EngineTensor]:
    for value in _list(values, "I/O Tensors", "the engine"):
        if not isinstance(value, dict):
            raise _malformed(f"an I/O tensor is {_kind(value)}, not an object")
        name = _text(value, "Name", "an I/O tensor", required=True)
        owner = f"I/O tensor {_short(name)}"
        mode = _text(value, "IOMode", owner).lower()
        if mode not in ("input", "output", ""):
            raise _malformed(f"IOMode of {owner} is {_short(mode)}, not Input or Output")
        dims = _dims(value, owner) if "Dimensions" in value else None
        yield EngineTensor(name, mode, dims, _dtype(value, owner))  # type: ignore[arg-type]


def _verbosity(values: Mapping[str, Any], layers: tuple[EngineLayer, ...]) -> Verbosity:
    """Tell how much the engine tells: 11.x says it, in 10.x it shows."""
    said = _text(values, "ProfilingVerbosity", "the engine").removeprefix("k").upper()
    if said in _VERBOSITIES:
        return _VERBOSITIES[said]
    if not layers:
        return "none"
    return "detailed" if any(layer.raw for layer in layers) else "layer_names"


def _list(value: Mapping[str, Any], key: str, owner: str, *, required: bool = False) -> list[Any]:
    found = value.get(key)
    if found is None and not required:
        return []
    if not isinstance(found, list):
        raise _malformed(f"{key} of {owner} is {_kind(found)}, not a list")
    return found


def _text(value: Mapping[str, Any], key: str, owner: str, *, required: bool = False) -> str:
    found = value.get(key)
    if found is None and not required:
        return ""
    if not isinstance(found, str):
        raise _malformed(f"{key} of {owner} is {_kind(found)}, not a text")
    return found


def _kind(value: Any) -> str:
    """Say what a JSON value is."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "missing" if value is None else names.get(type(value), "a number")


def _short(value: Any) -> str:
    """Quote a value on one line, cut where it is long: it comes from outside."""
    text = repr(value)
    return text if len(text) <= 80 else text[:60] + "…" + text[-19:]


def _malformed(what: str) -> ArtifactError:
    return ArtifactError(
        f"this is not what TensorRT's engine inspector prints: {what}",
        "give the JSON of the engine inspector, or of trtexec --exportLayerInfo",
    )
