"""Element types that the operators' own definitions imply, where inference stops.

Nothing is known of what other people's operators give. But a MatMul with float32 weights reads
float32, and gives it: the inputs and outputs that share a type variable in the operator's
definition are of one type, in whichever direction it becomes known.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

import onnx
from onnx import TensorProto, defs

from edgeattn.graph.nodes import is_standard_domain, standard_opset


def imply_types(model: onnx.ModelProto, elements: MutableMapping[str, int]) -> None:
    """Add the element types of tensors of which no type is known.

    Args:
        model: A graph; bodies of control flow are not looked into.
        elements: ONNX element types by tensor; what follows from them is added.
    """
    opset = standard_opset(model)
    nodes = [list(_slots(node, opset)) for node in model.graph.node]
    known = -1
    while len(elements) > known:
        known = len(elements)
        for slots in (*nodes, *reversed(nodes)):
            variables = {what: elements[name] for what, name in slots if name in elements}
            for what, name in slots:
                implied = variables.get(what, _FIXED.get(what))
                if implied is not None:
                    elements.setdefault(name, implied)


_FIXED = {
    f"tensor({TensorProto.DataType.Name(element).lower()})": element
    for element in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.FLOAT)
}


def _slots(node: onnx.NodeProto, opset: int) -> Iterator[tuple[str, str]]:
    """Yield the type, or its variable, of each tensor that a node reads or writes, and its name."""
    if not is_standard_domain(node.domain):
        return
    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return
    for formal, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for index, name in enumerate(names):
            if not name or not formal:
                continue
            slot = formal[min(index, len(formal) - 1)]
            if slot.is_homogeneous:
                yield slot.type_str, name
