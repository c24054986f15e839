"""What TensorRT's parser and builder refuse in a graph, or do not compute as it says.

Found before TensorRT sees the graph, so that the whole list is there at once, on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto

from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.graph.explicit_int8 import explicit_int8_faults
from edgeattn.graph.nodes import is_standard_domain, node_label
from edgeattn.graph.op import is_attention
from edgeattn.graph.shapes import TensorType

# Operators of the ONNX standard that no parser of TensorRT 10 takes. Those that `explicit_int8`
# explains are left out.
_REFUSED_OPS = {
    "AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr",
    "BitwiseXor", "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "DFT", "Det",
    "ImageDecoder", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial",
    "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement",
    "RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
    "SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss",
    "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer",
    "Unique",
}  # fmt: skip
# Operators that came later, with the first version that has them.
_NEW_OPS = {
    "Attention": TensorRtVersion(10, 14),
    "RMSNormalization": TensorRtVersion(10, 15),
    "RotaryEmbedding": TensorRtVersion(10, 15),
}
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


def parser_faults(
    model: onnx.ModelProto, types: Mapping[str, TensorType], version: TensorRtVersion
) -> Iterator[str]:
    """List what a version of TensorRT would refuse or silently compute otherwise.

    Args:
        model: The lowered graph.
        types: Of its tensors.
        version: The TensorRT that is to read it.

    Raises:
        GraphError: If an attention node is malformed.

    References:
        onnx-tensorrt, docs/operators.md of 10.1 and 10.15: operators and types; its changelog:
        Attention in 10.14, RotaryEmbedding and RMSNormalization in 10.15.
    """
    opset = max((o.version for o in model.opset_import if is_standard_domain(o.domain)), default=0)
    if opset > version.max_opset:
        yield (
            f"the graph has opset {opset}; TensorRT {version} is documented for opsets up to "
            f"{version.max_opset}"
        )
    functions = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        is_defined = is_attention(node) or (node.domain, node.op_type) in functions
        fault = "" if is_defined else _operator_fault(node, version)
        if fault:
            yield f"{node_label(node)}: {fault}"
        for name in filter(None, node.output):
            fault = _type_fault(types.get(name))
            if fault:
                yield f"{node_label(node)}: it gives {fault}"
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        fault = _type_fault(types.get(value.name))
        if fault and value.name not in weights:
            yield f"the input {value.name} is {fault}"
    yield from explicit_int8_faults(model, constant_scales=version.wants_constant_scales)


def _operator_fault(node: onnx.NodeProto, version: TensorRtVersion) -> str:
    if not is_standard_domain(node.domain):
        return f"{node.domain}::{node.op_type} is no ONNX operator; it needs a plugin of that name"
    if node.op_type in _REFUSED_OPS:
        return f"TensorRT has no {node.op_type}"
    if node.op_type in _NEW_OPS and version < _NEW_OPS[node.op_type]:
        return f"TensorRT has {node.op_type} from {_NEW_OPS[node.op_type]} on, not in {version}"
    return ""


def _type_fault(found: TensorType | None) -> str:
    if found is None:
        return ""
    name = TensorProto.DataType.Name(found.element).lower()
    if found.element in _REFUSED_TYPES:
        return f"{name}, a type that TensorRT does not have"
    return "float64, which TensorRT computes in float32" if name == "double" else ""
