"""What TensorRT's parser and builder refuse in a graph, or do not compute as it says.

Found before TensorRT sees the graph, so that the whole list is there at once, on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto, defs

from edgeattn.engine.tensorrt.operator_limits import NodeView, limit_faults
from edgeattn.engine.tensorrt.operator_support import (
    TYPE_NAMES,
    max_opset,
    min_opset,
    operator_support,
)
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.graph.constants import Constants, subgraphs, used_names
from edgeattn.graph.explicit_int8 import QUANTIZATION_OPS, quantization_faults
from edgeattn.graph.faults import Fault
from edgeattn.graph.nodes import (
    MOVING_OPS,
    is_standard,
    is_standard_domain,
    node_label,
    standard_opset,
)
from edgeattn.graph.op import is_attention
from edgeattn.graph.shapes import TensorType

_REFUSED_TYPES = frozenset(
    {
        TensorProto.COMPLEX64,
        TensorProto.COMPLEX128,
        TensorProto.INT16,
        TensorProto.STRING,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
    }
)
_MOST_AXES = 8  # NvInferRuntimeBase.h: Dims::MAX_DIMS
_CASTS = ("Cast", "CastLike")  # whose list is of what they give as well
_QUANTIZED = ("INT4", "FP4", "FP8")  # and INT8
# Where the first input is not the one that the lists' types are of.
_TYPED_SLOTS = {"Where": 1, "OneHot": 2}
# Their types are those of their bodies.
_CONTROL_FLOW = ("If", "Loop", "Scan")


def parser_faults(
    model: onnx.ModelProto, types: Mapping[str, TensorType], version: TensorRtVersion
) -> Iterator[Fault]:
    """List what a version of TensorRT would refuse or silently compute otherwise.

    Args:
        model: The lowered graph.
        types: Of its tensors.
        version: The TensorRT that is to read it.

    Raises:
        GraphError: If an attention node is malformed.

    References:
        onnx/onnx-tensorrt, docs/operators.md: operators, types, opsets and limits, see
        `operator_support` and `operator_limits`.
    """
    yield from _opset_faults(model, version)
    operators = _Operators(model, types, version)
    for node in model.graph.node:
        yield from operators.faults_of(node)
        for name in filter(None, node.output):
            yield from _type_faults(types.get(name), "it gives", node_label(node))
    weights = {tensor.name for tensor in model.graph.initializer}
    ends = {value.name: "input" for value in model.graph.input if value.name not in weights}
    ends |= dict.fromkeys(sorted(weights & used_names(model.graph)), "weight")
    for name, what in ends.items():
        yield from _type_faults(types.get(name), f"the {what} {name} is")
    yield from quantization_faults(model, constant_scales=version.wants_constant_scales)


def _opset_faults(model: onnx.ModelProto, version: TensorRtVersion) -> Iterator[Fault]:
    """The parser does not refuse other opsets as such; operators that are new there it does."""
    opset = standard_opset(model)
    newest, oldest = max_opset(version), min_opset(version)
    if opset > newest:
        what = f"opsets up to {newest}"
    elif opset < oldest:
        what = f"opsets from {oldest} on"
    else:
        return
    reason = f"the graph has opset {opset}; TensorRT {version} is documented for {what}"
    yield Fault(reason, topic="opset", is_refused=False)


class _Operators:
    """Looks up the operators of a graph."""

    def __init__(
        self, model: onnx.ModelProto, types: Mapping[str, TensorType], version: TensorRtVersion
    ) -> None:
        self._functions = {
            (function.domain, function.name): function for function in model.functions
        }
        self._types, self._version = types, version
        self._constants = Constants(model)
        self._used = used_names(model.graph)
        self._opsets = {o.domain: o.version for o in model.opset_import}

    def faults_of(self, node: onnx.NodeProto) -> Iterator[Fault]:
        """List what stands against a node: its operator, its limits, its type."""
        label = node_label(node)
        reason = self._operator_fault(node)
        if reason:
            yield Fault(reason, label, "operator")
            return
        yield from (Fault(reason, label, "operator") for reason in self._inner_faults(node))
        if not is_standard_domain(node.domain) or self._function(node) is not None:
            return
        view = NodeView(node, self._types, self._constants, self._used, self._version)
        yield from (Fault(reason, label, "operator") for reason in limit_faults(view))
        reason = self._element_fault(node)
        if reason:
            yield Fault(reason, label, "type")

    def _function(self, node: onnx.NodeProto) -> onnx.FunctionProto | None:
        return self._functions.get((node.domain, node.op_type))

    def _inner_faults(self, node: onnx.NodeProto) -> Iterator[str]:
        """Look into the bodies of control flow, and of functions that the graph defines."""
        function = self._function(node)
        bodies = [body.node for body in subgraphs(node)]
        if function is not None:
            bodies.append(function.node)
        for inner in (each for body in bodies for each in body):
            reason = self._operator_fault(inner)
            reasons = [reason] if reason else self._inner_faults(inner)
            yield from (f"its body has {node_label(inner)}: {each}" for each in reasons)

    def _operator_fault(self, node: onnx.NodeProto) -> str:
        if is_attention(node) or self._function(node) is not None:
            return ""
        if not is_standard_domain(node.domain):
            return (
                f"{node.domain}::{node.op_type} is no ONNX operator; it needs a plugin of that name"
            )
        if node.op_type in QUANTIZATION_OPS:
            return ""
        support = operator_support(node.op_type, self._version)
        if support is None:
            return f"TensorRT's list of operators has no {node.op_type}"
        if support.types:
            return ""
        if support.since is None:
            return f"TensorRT has no {node.op_type}"
        return f"TensorRT has {node.op_type} from {support.since} on, not in {self._version}"

    def _element_fault(self, node: onnx.NodeProto) -> str:
        """Compare the type of a node's first input, and of those of the same, with the list."""
        support = operator_support(node.op_type, self._version)
        if support is None or node.op_type in (*QUANTIZATION_OPS, *_CONTROL_FLOW):
            return ""
        takes = f"TensorRT takes {', '.join(support.types)}"
        for name in self._typed(node):
            found = self._type_name(name)
            moves = is_standard(node, *MOVING_OPS) and found in _QUANTIZED
            if moves or found == "INT8":  # where integers go is a rule of quantization
                continue
            if found and found not in support.types:
                return f"it reads {name} in {found}; {takes}"
        for name in node.output if is_standard(node, *_CASTS) else ():
            found = self._type_name(name)
            if found and found not in support.types:
                return f"it gives {found}; {takes}"
        return ""

    def _type_name(self, tensor: str) -> str:
        """Name a tensor's type as the lists do; empty if they have no name for it."""
        known = self._types.get(tensor)
        return TYPE_NAMES.get(known.element, "") if known else ""

    def _typed(self, node: onnx.NodeProto) -> list[str]:
        """Name the inputs that have to be of the listed types."""
        slot = _TYPED_SLOTS.get(node.op_type, 0)
        if slot >= len(node.input):
            return []
        try:
            opset = self._opsets.get(node.domain, self._opsets.get("", 1))
            schema = defs.get_schema(node.op_type, max_inclusive_version=opset, domain="")
        except defs.SchemaError:
            return [node.input[slot]]
        slots = [formal.type_str for formal in schema.inputs]
        last = len(slots) - 1  # a variadic one stands for all that follow
        return [
            name
            for index, name in enumerate(node.input)
            if name and last >= 0 and slots[min(index, last)] == slots[min(slot, last)]
        ]


def _type_faults(found: TensorType | None, what: str, node: str = "") -> Iterator[Fault]:
    if found is None:
        return
    name = TensorProto.DataType.Name(found.element).lower()
    if found.element in _REFUSED_TYPES:
        yield Fault(f"{what} {name}, a type that TensorRT does not have", node, "type")
    elif found.element == TensorProto.DOUBLE:
        reason = f"{what} float64, which TensorRT computes in float32"
        yield Fault(reason, node, "type", is_refused=False)
    if found.shape is not None and len(found.shape) > _MOST_AXES:
        reason = f"{what} a tensor of {len(found.shape)} axes; TensorRT has at most {_MOST_AXES}"
        yield Fault(reason, node, "type")
