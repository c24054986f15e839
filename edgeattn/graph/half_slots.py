"""Which tensors of a node may be of a half type: what the operators' own definitions say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, defs

from edgeattn.graph.constants import subgraphs
from edgeattn.graph.half_types import HalfType
from edgeattn.graph.nodes import is_standard, is_standard_domain
from edgeattn.graph.op import is_attention

# They read whatever type is there.
FOLLOWERS = ("Cast", "QuantizeLinear", "Shape", "Size")


@dataclass(frozen=True)
class Slots:
    """The float32 tensors that a node reads and writes, as positions of its inputs and outputs.

    Attributes:
        inputs: Those that may be of the half type as well.
        fixed: Inputs that are float32 whatever the others are.
        outputs: Outputs that have the type of `inputs`.
        obstacle: Why none of them may be of the half type; empty if nothing hinders.
    """

    inputs: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    obstacle: str = ""


def slots_of(
    node: onnx.NodeProto,
    half: HalfType,
    opset: int,
    types: Mapping[str, int],
    constants: Collection[str],
) -> Slots:
    """Find the float32 tensors of a node.

    Args:
        node: The node.
        half: The half type that is wanted.
        opset: Of the standard operators.
        types: Element type of each tensor.
        constants: Names of constant tensors.
    """
    floats = tuple(i for i, name in enumerate(node.input) if types.get(name) == TensorProto.FLOAT)
    outputs = tuple(i for i, name in enumerate(node.output) if types.get(name) == TensorProto.FLOAT)
    if is_attention(node):
        if 0 not in floats:  # the INT8 form
            return Slots(fixed=floats)
        return Slots((0,), floats[1:], outputs)
    if is_standard(node, *FOLLOWERS, "Constant") or is_flexible(node, constants):
        return Slots()
    if subgraphs(node):
        return Slots((), floats, (), "the bodies of control flow stay in float32")
    schema = _schema(node, opset)
    if schema is None:
        what = f"nothing is known of the operator {node.domain or 'ai.onnx'}::{node.op_type}"
        return Slots((), floats, (), what)
    # Only slots whose type is a variable of the schema have a choice. The type of an output whose
    # variable no input shares comes from an attribute.
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    reads = {i: schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in floats}
    gives = {i: schema.outputs[min(i, len(schema.outputs) - 1)].type_str for i in outputs}
    open_inputs = tuple(i for i in floats if reads[i] in allowed)
    variables = {reads[i] for i in open_inputs}
    fixed = tuple(i for i in floats if i not in open_inputs)
    open_outputs = tuple(i for i in outputs if gives[i] in variables)
    return Slots(
        open_inputs, fixed, open_outputs, _obstacle(node, schema, variables, half, opset, types)
    )


def is_flexible(node: onnx.NodeProto, constants: Collection[str]) -> bool:
    """Tell whether a node is a DequantizeLinear that can give either type."""
    return is_standard(node, "DequantizeLinear") and node.input[1] in constants


def _schema(node: onnx.NodeProto, opset: int) -> defs.OpSchema | None:
    if not is_standard_domain(node.domain):
        return None
    try:
        return defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return None


def _obstacle(
    node: onnx.NodeProto,
    schema: defs.OpSchema,
    variables: Collection[str],
    half: HalfType,
    opset: int,
    types: Mapping[str, int],
) -> str:
    """Say why a node's variable types cannot be the half type; nothing if they can."""
    if not variables:
        return ""
    for name in (*node.input, *node.output):
        if name and not types.get(name):
            return f"the type of {name} is not known"
    if _takes(schema, variables, half):
        return ""
    for later in range(opset + 1, defs.onnx_opset_version() + 1):
        newer = _schema(node, later)
        if newer is not None and _takes(newer, variables, half):
            return f"{node.op_type} takes {half} from opset {later} on; this is {opset}"
    return f"{node.op_type} does not take {half}"


def _takes(schema: defs.OpSchema, variables: Collection[str], half: HalfType) -> bool:
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return all(f"tensor({half})" in allowed.get(variable, ()) for variable in variables)
