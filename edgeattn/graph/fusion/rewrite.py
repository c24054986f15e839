"""The attention node in the place of what it was recognised in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeattn.errors import SpecError
from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.match import Match
from edgeattn.graph.fusion.probe import Probe, run_node
from edgeattn.graph.nodes import is_standard
from edgeattn.graph.op import make_attention_node
from edgeattn.spec import AttentionSpec, HeadGroup, PadMode

_ELEMENTS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


class Rewrite:
    """New nodes that compute what an attention and its projections compute.

    Args:
        match: The attention.
        probe: The graph at one size.
        name: Of the attention node; begins the names of all that is new.
        opset: Version of the ONNX standard.

    Attributes:
        spec: Of the attention node.
        nodes: In their order; the last one makes the first of `match.outputs`.
        weights: New initializers.

    Raises:
        UnrecognisedError: If no spec says what it computes.
    """

    def __init__(self, match: Match, probe: Probe, name: str, opset: int) -> None:
        self._match = match
        self._probe = probe
        self._name = name
        self._opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        if probe.element(match.tokens) not in _ELEMENTS:
            raise UnrecognisedError("its tokens are no floating point numbers of 16 or 32 bits")
        self.spec = self._make_spec()
        self._write()

    def _make_spec(self) -> AttentionSpec:
        match = self._match
        num_heads, head_dim = match.channels[0].shape
        shift = tuple(0 if size is None else size for size in match.shift_size)
        group = HeadGroup(num_heads, match.window_size, (shift[0], shift[1]), mode=match.mode)
        pad_mode: PadMode = match.pad_mode or "mask"
        scale = float(match.scale[0])
        try:
            return AttentionSpec(
                head_dim,
                num_heads,
                (group,),
                softmax_scale=0.0
                if match.is_cosine or math.isclose(scale, head_dim**-0.5, rel_tol=1e-6)
                else scale,
                has_bias=match.table is not None,
                pad_mode=pad_mode,
                shift_pad_order=match.order or "pad_then_roll",
                mask_value=-math.inf if match.mask_value is None else match.mask_value,
                qk_mode="cosine" if match.is_cosine else "dot",
            )
        except SpecError as err:
            raise UnrecognisedError(err.message) from err

    def _write(self) -> None:
        match = self._match
        tokens = match.tokens
        if match.layout in ("list", "windows"):
            batch = 0 if match.layout == "list" else -1
            channels = (self._probe.shape(tokens) or (0,))[-1]
            shape = self._constant("map_shape", np.array([batch, *match.size, channels]))
            tokens = self._node("Reshape", [tokens, shape])
        elif match.layout == "sequence":
            axes = self._constant("rows_axis", np.array([1]))
            tokens = self._node("Unsqueeze", [tokens, axes])
        for node in match.norms:
            tokens = self._norm(node, tokens)
        qkv = tokens if match.is_projected else self._project(tokens)
        if match.is_projected and not self._is_in_order(3 * match.channels[0].size):
            order = np.concatenate([each.reshape(-1) for each in match.channels])
            qkv = self._node("Gather", [qkv, self._constant("channels", order)], axis=-1)
        inputs = [qkv]
        if match.table is not None:
            inputs.append(self._constant("bias_table", match.table.reshape(-1)))
        if self.spec.pad_mode == "bias_kv":
            inputs.append(self._constant("pad_kv", self._pad_kv()))
        if match.is_cosine:
            inputs.append(self._constant("logit_scale", match.scale.astype(np.float32)))
        attention = make_attention_node(self.spec, inputs, f"{self._name}:0", self._name)
        self.nodes.append(attention)
        result = self._work_on_tokens(attention.output[0])
        self._put(result)

    def _norm(self, node: onnx.NodeProto, tokens: str) -> str:
        """Repeat a node that works on each token by itself, on tokens in the map's order."""
        inputs = [
            self._flat(name, node) if self._probe.is_known(name) else tokens for name in node.input
        ]
        attributes = {
            a.name: helper.get_attribute_value(a) for a in _along_channels(node).attribute
        }
        return self._node(node.op_type, inputs, **attributes)

    def _is_in_order(self, width: int) -> bool:
        order = np.concatenate([each.reshape(-1) for each in self._match.channels])
        return np.array_equal(order, np.arange(width))

    def _project(self, tokens: str) -> str:
        """Write the linear layers of query, key and value as one."""
        first = self._match.projections[0]
        assert first is not None  # of an attention that is to project
        element = self._probe.value(first.weight).dtype
        whole = all(each == first for each in self._match.projections)
        width = self._probe.value(first.weight).shape[0 if first.transposed else 1]
        if whole and not first.transposed and self._is_in_order(width):
            weight, bias = first.weight, first.bias
            weight = self._kept(weight)
        else:
            weight = self._constant("qkv_weight", self._columns())
            bias = ""
        name = self._node("MatMul", [tokens, weight])
        vector = self._biases()
        if bias:
            return self._node("Add", [name, self._kept(bias)])
        if vector.any():
            return self._node("Add", [name, self._constant("qkv_bias", vector.astype(element))])
        return name

    def _columns(self) -> NDArray[Any]:
        """Give the matrices of the projections side by side: `[C, 3 * heads * head_dim]`."""
        columns = [
            each.matrix(self._probe)[:, channels.reshape(-1)]
            for each, channels in zip(self._match.projections, self._match.channels, strict=True)
            if each is not None
        ]
        return np.concatenate(columns, axis=1)

    def _kept(self, name: str) -> str:
        """Use a weight as it is, or its value where nodes of the old attention make it."""
        if name in self._probe.producer:
            return self._constant(name.rpartition("/")[2], self._probe.value(name))
        return name

    def _biases(self) -> NDArray[Any]:
        """Give what the projections add: `[3 * heads * head_dim]`."""
        parts = []
        for each, channels in zip(self._match.projections, self._match.channels, strict=True):
            vector = each.vector(self._probe) if each is not None else None
            flat = channels.reshape(-1)
            parts.append(np.zeros(len(flat), np.float32) if vector is None else vector[flat])
        return np.concatenate(parts)

    def _pad_kv(self) -> NDArray[np.float32]:
        """Give the keys and values of padded tokens: `[2 * heads * head_dim]`."""
        match = self._match
        size = match.channels[0].size
        if match.pads == "projected":
            return np.zeros(2 * size, np.float32)
        padded = self._biases()[size:].astype(np.float64)
        if match.norms and match.pads == "tokens":
            token = self._normed_zeros()
            padded += token @ self._columns()[:, size:].astype(np.float64)
        return padded.astype(np.float32)

    def _normed_zeros(self) -> NDArray[np.float64]:
        """Compute what the norms make of a padded token, `[C]`."""
        match = self._match
        element = helper.tensor_dtype_to_np_dtype(self._probe.element(match.tokens))
        token = np.zeros((1, (self._probe.shape(match.tokens) or (0,))[-1]), element)
        for node in match.norms:
            values: list[NDArray[Any] | None] = [
                self._probe.value(name).reshape(-1) if self._probe.is_known(name) else token
                for name in node.input
            ]
            token = run_node(_along_channels(node), values, self._opset)[0]
        return token.reshape(-1).astype(np.float64)

    def _work_on_tokens(self, result: str) -> str:
        """Repeat the nodes that work on each token by itself, on tokens in the map's order."""
        for step in self._match.outputs[0].steps:
            if is_standard(step, "Gemm"):
                result = self._as_matmul(step, result)
                continue
            data = next(i for i, name in enumerate(step.input) if not self._probe.is_known(name))
            inputs = [self._flat(name, step) for name in step.input]
            inputs[data] = result
            result = self._node(step.op_type, inputs)
        return result

    def _flat(self, name: str, step: onnx.NodeProto) -> str:
        """Give a known input of a node without leading axes, which need not fit a map's."""
        if not self._probe.is_known(name):
            return name
        shape = self._probe.shape(name)
        if is_standard(step, "MatMul") or (shape is not None and len(shape) <= 1):
            return self._kept(name)
        return self._constant(name.rpartition("/")[2], self._probe.value(name).reshape(-1))

    def _as_matmul(self, step: onnx.NodeProto, result: str) -> str:
        attributes = {a.name: helper.get_attribute_value(a) for a in step.attribute}
        weight = step.input[1]
        if attributes.get("transB", 0):
            weight = self._constant("weight", self._probe.value(weight).T)
        result = self._node("MatMul", [result, self._kept(weight)])
        if len(step.input) > 2 and step.input[2]:
            result = self._node("Add", [result, self._flat(step.input[2], step)])
        return result

    def _put(self, result: str) -> None:
        """Give the result the name, and the axes, that its readers expect."""
        output = self._match.outputs[0]
        channels = (self._probe.shape(output.name) or (0,))[-1]
        if self._match.layout == "windows":
            axes = self._node("Shape", [self._match.tokens], end=-1)
            width = self._constant("channels", np.array([channels]))
            target = self._node("Concat", [axes, width], axis=0)
        elif output.rank == 4:
            self.nodes[-1].output[0] = output.name
            return
        else:
            shape = [0, -1] if output.rank == 3 else [-1]
            target = self._constant("shape", np.array([*shape, channels]))
        node = helper.make_node("Reshape", [result, target], [output.name])
        node.name = f"{self._name}.Reshape_back"
        self.nodes.append(node)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        unique = f"{self._name}.{name}"
        taken = {tensor.name for tensor in self.weights}
        while unique in taken:
            unique += "_"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), unique))
        return unique

    def _node(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{self._name}.{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"


def _along_channels(node: onnx.NodeProto) -> onnx.NodeProto:
    """Count the axis of a norm from the end: tokens have other axes before their channels."""
    if not is_standard(node, "LayerNormalization"):
        return node
    result = onnx.NodeProto()
    result.CopyFrom(node)
    kept = [attribute for attribute in node.attribute if attribute.name != "axis"]
    del result.attribute[:]
    result.attribute.extend([*kept, helper.make_attribute("axis", -1)])
    return result
