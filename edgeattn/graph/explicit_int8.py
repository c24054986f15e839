"""Check a quantized graph against the rules of TensorRT's explicit quantization, 10.3 to 11.x.

TensorRT answers a breach of some of these rules with an error when it builds, of others by
computing in float without a word. The strictest version's form of each rule is checked: 10.3 wants
scales that are constant and, in strongly typed networks, of the type of what they scale; 11.1 has
dropped the first.

References:
    NvInfer.h of 10.3 and 11.1: IQuantizeLayer, IDequantizeLayer, IConvolutionLayer::setNbGroups.
    onnx-tensorrt, docs/operators.md: which quantization operators the parser takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeattn.graph.constants import Constants
from edgeattn.graph.faults import Fault
from edgeattn.graph.linear_layers import LINEAR_OPS, channel_axis
from edgeattn.graph.nodes import MOVING_OPS, is_standard, node_label, standard_opset
from edgeattn.graph.op import is_attention, spec_of_node
from edgeattn.graph.qdq_pairs import QdqPairs
from edgeattn.graph.residuals import Residuals
from edgeattn.graph.shapes import TensorType, infer_types

MIN_OPSET = 13  # scales per channel
MIN_HALF_OPSET = 19  # scales of FP16 and BF16

_QDQ = ("QuantizeLinear", "DequantizeLinear")
# The other types that TensorRT quantizes to, which the toolkit only reads.
_FLOAT4 = 23  # TensorProto.FLOAT4E2M1, which onnx has from 1.18 on
_OTHER_TYPES = (TensorProto.FLOAT8E4M3FN, TensorProto.INT4, _FLOAT4)
_REFUSED_OPS = (
    "ConvInteger",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
)
QUANTIZATION_OPS = (*_QDQ, *_REFUSED_OPS)


def explicit_int8_faults(model: onnx.ModelProto, *, constant_scales: bool = True) -> list[str]:
    """List what TensorRT would refuse or not compute in INT8; empty if nothing.

    Args:
        model: A graph with Q/DQ, before or after its attention nodes are lowered.
        constant_scales: Whether scales have to be constants, as TensorRT 10 wants them.

    Raises:
        GraphError: If an attention node is malformed.
    """
    return [str(fault) for fault in quantization_faults(model, constant_scales=constant_scales)]


def quantization_faults(model: onnx.ModelProto, *, constant_scales: bool = True) -> Iterator[Fault]:
    """List the same with the node of each, and whether TensorRT refuses it.

    Args:
        model: As above.
        constant_scales: As above.

    Raises:
        GraphError: If an attention node is malformed.
    """
    yield from _Checker(model, constant_scales).faults()


class _Checker:
    """Goes through a graph node by node."""

    def __init__(self, model: onnx.ModelProto, constant_scales: bool) -> None:
        self._nodes = model.graph.node
        self._wants_constant_scales = constant_scales
        self._opset = standard_opset(model)
        self._constants = Constants(model)
        self._types = infer_types(model)
        self._pairs = QdqPairs(model)
        self._producer = {name: node for node in self._nodes for name in node.output}
        layers = [i for i, node in enumerate(self._nodes) if self._dequantized_weight(node)]
        self._residuals = Residuals(model.graph, self._constants, layers)

    def faults(self) -> Iterator[Fault]:
        if self._opset < MIN_OPSET and any(is_standard(node, *_QDQ) for node in self._nodes):
            reason = f"the graph has opset {self._opset}; Q/DQ need at least {MIN_OPSET}"
            yield Fault(reason, topic="quantization")
        for node in self._nodes:
            label = node_label(node)
            for reason in self._refusals(node):
                yield Fault(reason, label, "quantization")
            for reason in self._silent_faults(node):
                yield Fault(reason, label, "quantization", is_refused=False)

    def _refusals(self, node: onnx.NodeProto) -> Iterator[str]:
        """List what keeps TensorRT from building."""
        if is_standard(node, *_REFUSED_OPS):
            yield f"TensorRT has no {node.op_type}; it takes QuantizeLinear and DequantizeLinear"
        elif is_standard(node, "QuantizeLinear"):
            yield from self._scale(node)
            yield from self._quantize(node)
        elif is_standard(node, "DequantizeLinear"):
            yield from self._scale(node)
            yield from self._dequantize(node)
        else:
            yield from self._reads_integers(node)
        if is_standard(node, *LINEAR_OPS):
            yield from self._weight_scales(node)

    def _silent_faults(self, node: onnx.NodeProto) -> Iterator[str]:
        """List what TensorRT computes in float, or in more kernels than it has to."""
        if is_standard(node, "DequantizeLinear"):
            yield from self._own_scale(node)
        if is_standard(node, *LINEAR_OPS):
            yield from self._layer(node)
        if self._residuals.is_sum_of_activations(node):
            yield from self._sum(node)

    def _scale(self, node: onnx.NodeProto) -> Iterator[str]:
        """Scale and zero point: constant, positive, symmetric, of a legal type and shape."""
        names = node.input[1:]
        if not all(name in self._constants for name in names if name):
            if self._wants_constant_scales:
                yield "its scale is computed at run time; TensorRT 10 wants a constant"
            return
        scale = self._constants.value(names[0])
        if not ((scale > 0) & np.isfinite(scale.astype(np.float64))).all():
            yield "its scale is not finite and positive"
        is_half = scale.dtype != np.float32
        if is_half and self._opset < MIN_HALF_OPSET:
            yield f"scales of {scale.dtype.name} need opset {MIN_HALF_OPSET}, not {self._opset}"
        zero = self._constants.value(names[1]) if len(names) > 1 and names[1] else None
        if zero is not None and zero.any():
            yield "its zero point is not zero; TensorRT's quantization is symmetric"
        if zero is not None and zero.shape != scale.shape:
            yield f"its zero point has the shape {zero.shape}, its scale {scale.shape}"
        yield from self._granularity(node, scale)

    def _granularity(self, node: onnx.NodeProto, scale: NDArray[Any]) -> Iterator[str]:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if attributes.get("block_size", 0) and not self._is_of_other_type(node):
            yield "INT8 has one scale per tensor or channel, none per block"
        shape = self._shape(node.input[0])
        if shape == ():
            yield "its input is a scalar"
        if not scale.ndim or attributes.get("block_size", 0):
            return
        if node.input[0] not in self._constants:
            yield "scales per channel go with constants alone"
            return
        axis = attributes.get("axis", 1)
        rank = len(shape) if shape is not None else 0
        fits = shape is not None and -rank <= axis < rank and shape[axis] == scale.size
        if scale.ndim > 1 or not fits:
            yield f"its scales {scale.shape} do not fit axis {axis} of {shape}"

    def _quantize(self, node: onnx.NodeProto) -> Iterator[str]:
        element = self._element(node.output[0])
        if element != TensorProto.INT8 and element not in _OTHER_TYPES:
            yield f"it gives {_name(element)}; TensorRT's explicit quantization is INT8"
        found, scale = self._element(node.input[0]), self._element(node.input[1])
        if TensorProto.UNDEFINED not in (found, scale) and found != scale:
            yield f"its scale is {_name(scale)} and its input {_name(found)}; they have to agree"

    def _dequantize(self, node: onnx.NodeProto) -> Iterator[str]:
        element = self._element(node.input[0])
        if element not in (TensorProto.INT8, TensorProto.UNDEFINED, *_OTHER_TYPES):
            yield f"it reads {_name(element)}; TensorRT's explicit quantization is INT8"

    def _own_scale(self, node: onnx.NodeProto) -> Iterator[str]:
        source = self._producer.get(node.input[0])
        if source is not None and is_standard(source, "QuantizeLinear"):
            scales = [self._pairs.quant_scale(each) for each in (source, node)]
            if scales[0] != scales[1]:
                yield f"its scale is not that of {node_label(source)}"

    def _reads_integers(self, node: onnx.NodeProto) -> Iterator[str]:
        """INT8 tensors are for DequantizeLinear, attention in its INT8 form, and moves."""
        for name in node.input:
            if self._element(name) != TensorProto.INT8 or name in self._constants:
                continue
            if is_attention(node):
                source, scale = self._producer.get(name), spec_of_node(node).qkv_quant_scale
                is_quantized = source is not None and is_standard(source, "QuantizeLinear")
                found = self._pairs.quant_scale(source) if source and is_quantized else None
                if found is not None and scale != found:
                    yield f"its qkv_quant_scale is {scale:g}; {name} has the scale {found:g}"
            elif not is_standard(node, *MOVING_OPS):
                yield f"it reads the INT8 tensor {name}; only DequantizeLinear may"

    def _layer(self, node: onnx.NodeProto) -> Iterator[str]:
        """Both factors in INT8 or none, per channel along the output channels."""
        in_int8 = [self._is_dequantized(name) for name in node.input[:2]]
        if in_int8[0] != in_int8[1]:
            float_one, int8_one = sorted(node.input[:2], key=self._is_dequantized)
            yield f"{int8_one} is INT8 and {float_one} is not, so it computes in float"
        if all(in_int8):
            _, _, obstacle = self._channels(node)
            if obstacle:
                yield obstacle

    def _weight_scales(self, node: onnx.NodeProto) -> Iterator[str]:
        """Scales of a weight are along its output channels."""
        weight, axis, obstacle = self._channels(node)
        if weight is None or obstacle:
            return
        attributes = {a.name: helper.get_attribute_value(a) for a in weight.attribute}
        scale = self._constants.value(weight.input[1])
        rank = len(self._shape(weight.input[0]) or ())
        is_blocked = bool(attributes.get("block_size", 0))
        if scale.ndim and not is_blocked and attributes.get("axis", 1) % rank != axis:
            yield f"the scales of its weight are not per output channel (axis {axis})"

    def _channels(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto | None, int, str]:
        """Find the DequantizeLinear of a layer's weight, its channels, and what is against INT8."""
        weight = self._dequantized_weight(node)
        if weight is None or not all(self._is_dequantized(name) for name in node.input[:2]):
            return None, 0, ""
        # What it dequantizes to has the same shape, and old opsets' forms need no evaluating.
        values = self._constants.value(weight.input[0]).astype(np.float32)
        return weight, *channel_axis(node, values)

    def _sum(self, node: onnx.NodeProto) -> Iterator[str]:
        """A layer and the sum after it are one kernel if nothing is rounded in between."""
        ends = [self._rounded_layer(name) for name in node.input]
        if any(ends) and not any(self._residuals.ends_in_layer(name) for name in node.input):
            yield "Q/DQ part it from the layer before it; round the other branch"

    def _rounded_layer(self, tensor: str) -> bool:
        origin = self._pairs.origin(tensor)
        source = self._pairs.unrounded(origin.integers) if origin else None
        return source is not None and self._residuals.ends_in_layer(source)

    def _is_of_other_type(self, node: onnx.NodeProto) -> bool:
        """Tell whether a Q/DQ node rounds to another type than INT8."""
        name = node.output[0] if is_standard(node, "QuantizeLinear") else node.input[0]
        return self._element(name) in _OTHER_TYPES

    def _dequantized_weight(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Find the DequantizeLinear that makes a layer's weight."""
        if not is_standard(node, *LINEAR_OPS) or node.input[1] not in self._constants:
            return None
        source = self._producer.get(node.input[1])
        is_dequantized = source is not None and is_standard(source, "DequantizeLinear")
        return source if is_dequantized else None

    def _is_dequantized(self, tensor: str) -> bool:
        source = self._producer.get(tensor)
        while source is not None and is_standard(source, *MOVING_OPS):
            source = self._producer.get(source.input[0])
        if source is None or not is_standard(source, "DequantizeLinear"):
            return False
        return self._element(source.input[0]) not in _OTHER_TYPES

    def _element(self, name: str) -> int:
        return self._types.get(name, TensorType(TensorProto.UNDEFINED, None)).element

    def _shape(self, name: str) -> tuple[int | str, ...] | None:
        return self._types.get(name, TensorType(TensorProto.UNDEFINED, None)).shape


def _name(element: int) -> str:
    return TensorProto.DataType.Name(element).lower()
