"""One attention node as standard operators: one gather in, one gather out.

The packed projection is seen as rows of `head_dim` numbers. An index table, made from the index
rule, takes the rows of queries, keys and values straight into windows, heads and tokens; another
takes the results back to the map. There is no roll, no partition, no transpose of activations.
For static maps the tables are constants; for dynamic ones they are computed from H and W in the
graph, by the same formulas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import numpy_helper

from edgeattn.graph.folded_windows import WindowFactors, fold_windows, sum_constants
from edgeattn.graph.fused_mha import int8_group_obstacle
from edgeattn.graph.half_types import HALF_TYPES, as_half
from edgeattn.graph.int8 import PROBABILITY_QUANT_SCALE
from edgeattn.graph.nodes import node_label
from edgeattn.graph.op import spec_of_node
from edgeattn.graph.shapes import TensorType
from edgeattn.graph.tape import Tape, Value
from edgeattn.graph.window_axes import (
    PAD,
    WindowAxis,
    block_axis,
    grid_axis,
    neighbor_axis,
)
from edgeattn.spec import AttentionSpec, HeadGroup

NORM_EPSILON = 1e-12  # torch.nn.functional.normalize

_HALF_NAMES = {element: name for name, element in HALF_TYPES.items()}

Form = Literal["portable", "fused_mha", "attention"]


@dataclass(frozen=True)
class AttentionForm:
    """How attention is written.

    Attributes:
        form: `portable` computes softmax and sums in float32 whatever the type of the tensors
            around them. The others are for TensorRT: on four axes and in the type of `qkv`, which
            its fused attention wants; `fused_mha` by products and softmax, `attention` by ONNX's
            Attention (opset 23) wherever tokens share their keys.
        int8_products: Round the factors of the products inside nodes of the INT8 form, so that
            they can be computed in INT8, where TensorRT can fuse that (`fused_mha`). Queries, keys
            and values are on INT8 steps already; only the probabilities lose by it.
        float_element: Type of the products of other nodes of the INT8 form.
    """

    form: Form = "portable"
    int8_products: bool = False
    float_element: int = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class DecomposedGroup:
    """What became of one head group of an attention node.

    Attributes:
        node: The node's label.
        number: Of the group, from 0.
        groups: How many the node had.
        nodes: Names of the nodes that compute it; those that serve all groups are in each.
        core: Of these the two products and the softmax between them, or the Attention node.
        in_int8: Whether the products' factors are rounded to INT8.
        products_element: ONNX element type that the products are computed in otherwise.
        qkv: Tensor that the attention node read.
        output: Tensor that it made.
        spec: What it computed.
    """

    node: str
    number: int
    groups: int
    nodes: tuple[str, ...]
    core: tuple[str, ...]
    in_int8: bool
    products_element: int
    qkv: str
    output: str
    spec: AttentionSpec

    @property
    def head_group(self) -> HeadGroup:
        """The group itself."""
        return self.spec.head_groups[self.number]


class StandardAttention:
    """Writes the standard form of one attention node on a tape.

    Args:
        tape: Where to.
        node: The attention node.
        types: Of the graph's tensors.
        weights: The graph's, by name.
        options: How to write it.

    Raises:
        GraphError: If the node is malformed.
    """

    def __init__(
        self,
        tape: Tape,
        node: onnx.NodeProto,
        types: Mapping[str, TensorType],
        weights: Mapping[str, onnx.TensorProto],
        options: AttentionForm,
    ) -> None:
        self.tape = tape
        self.form = options.form
        self.label = node_label(node)
        self.spec: AttentionSpec = spec_of_node(node)
        self.qkv_name, self.output = node.input[0], node.output[0]
        inputs = dict(zip(self.spec.input_names, node.input, strict=True))
        self.inputs = {
            name: tape.value(numpy_helper.to_array(weights[tensor]))
            if tensor in weights
            else tape.tensor(tensor)
            for name, tensor in inputs.items()
        }
        self.qkv_type = types.get(inputs["qkv"], TensorType(onnx.TensorProto.FLOAT, None))
        sizes = self.qkv_type.shape or ("?", "?", "?", "?")
        height, width = (size if isinstance(size, int) else None for size in sizes[1:3])
        self.int8_groups = [
            group
            for group in self.spec.head_groups
            if options.int8_products and not int8_group_obstacle(self.spec, group, height, width)
        ]
        self.element = self._products_element(options.float_element)
        self.qkv = self._in_products_type(self.inputs["qkv"])
        self.height = self._size(sizes[1], axis=1)
        self.width = self._size(sizes[2], axis=2)

    def _products_element(self, float_element: int) -> int:
        """Choose the type that products are computed in."""
        if self.form == "portable" or self.int8_groups:
            return onnx.TensorProto.FLOAT
        if self.qkv_type.element == onnx.TensorProto.INT8:
            return float_element
        is_half = self.qkv_type.element in _HALF_NAMES
        return self.qkv_type.element if is_half else onnx.TensorProto.FLOAT

    def _size(self, size: int | str, axis: int) -> Value:
        """Give a size of the map, read off a float tensor: TensorRT takes no Shape of INT8."""
        if isinstance(size, int):
            return self.tape.value(size)
        return self.tape.op("Shape", self.qkv).gather(axis, axis=0)

    def write(self) -> list[DecomposedGroup]:
        """Append the nodes; the last one makes the attention node's output."""
        tape, spec = self.tape, self.spec
        rows = self.qkv.reshape(0, -1, spec.head_dim)
        results, indices = [], []
        offset: Value = tape.value(0)
        bias_offset = 0
        ends = [len(tape.nodes)]
        for group in spec.head_groups:
            bias = None
            if spec.has_bias:
                bias = self._group_bias(group, bias_offset)
                bias_offset += group.bias_entries
            attend = self._neighbors if group.mode == "neighborhood" else self._windows
            result, index, count = attend(rows, group, bias)
            results.append(result)
            indices.append(index + offset)
            offset = offset + count
            ends.append(len(tape.nodes))
        merged = results[0] if len(results) == 1 else tape.op("Concat", *results, axis=1)
        index = indices[0] if len(indices) == 1 else tape.op("Concat", *indices, axis=1)
        out = merged.gather(index, axis=1)  # [B, H*W, heads, D]
        out = out.reshape(0, self.height, self.width, spec.out_channels)
        self._finish(out)
        return [self._written(number, ends) for number in range(len(results))]

    def _written(self, number: int, ends: list[int]) -> DecomposedGroup:
        """Name the nodes of a group, which end where `ends` says, and those of all groups."""
        own = self.tape.nodes[ends[number] : ends[number + 1]]
        nodes = [*self.tape.nodes[: ends[0]], *own, *self.tape.nodes[ends[-1] :]]
        return DecomposedGroup(
            self.label,
            number,
            len(ends) - 1,
            tuple(node.name for node in nodes),
            tuple(node.name for node in own if node.op_type in ("MatMul", "Softmax", "Attention")),
            self.spec.head_groups[number] in self.int8_groups,
            self.element,
            self.qkv_name,
            self.output,
            self.spec,
        )

    def _in_products_type(self, qkv: Value) -> Value:
        element = self.qkv_type.element
        if element == onnx.TensorProto.INT8:
            scale = np.float32(self.spec.qkv_quant_scale)
            qkv = self.tape.op("DequantizeLinear", qkv, np.array(scale), self._int8_zero())
            element = onnx.TensorProto.FLOAT
        if element in (self.element, onnx.TensorProto.UNDEFINED):
            return qkv
        return self.tape.op("Cast", qkv, to=self.element)

    def _typed(self, value: Value) -> Value:
        """Give a float32 value the type of the products."""
        if self.element == onnx.TensorProto.FLOAT:
            return value
        if value.known is not None:
            return Value(self.tape, as_half(value.known, _HALF_NAMES[self.element]))
        return self.tape.op("Cast", value, to=self.element)

    def _in_float(self, value: Value) -> Value:
        """Give a value of the products' type as float32."""
        if self.element == onnx.TensorProto.FLOAT:
            return value
        return self.tape.op("Cast", value, to=onnx.TensorProto.FLOAT)

    def _pad_kv(self) -> Value:
        """Key and value of padded tokens; in the INT8 form they are steps, like all others."""
        pad_kv = self.inputs["pad_kv"]
        if self.qkv_type.element != onnx.TensorProto.INT8:
            return pad_kv
        return self._rounded(pad_kv, self.spec.qkv_quant_scale)

    def _rounded(self, x: Value, quant_scale: float) -> Value:
        scale = np.array(quant_scale, np.float32)
        steps = self.tape.op("QuantizeLinear", x, scale, self._int8_zero())
        return self.tape.op("DequantizeLinear", steps, scale, self._int8_zero())

    def _int8_zero(self) -> Value:
        """Make a zero point, which gives a step its type.

        Without one ONNX Runtime's optimizer takes a dequantized INT8 tensor for UINT8 when it
        moves the dequantization through a Reshape, and clips what is negative.
        """
        return Value(self.tape, np.zeros((), np.int8))

    def _finish(self, out: Value) -> None:
        element = self.qkv_type.element
        if self.spec.out_quant_scale:
            scale = np.array(self.spec.out_quant_scale, np.float32)
            out = self.tape.op("QuantizeLinear", self._in_float(out), scale, self._int8_zero())
        elif element in _HALF_NAMES and element != self.element:
            out = self.tape.op("Cast", out, to=element)
        elif element not in _HALF_NAMES:
            out = self._in_float(out)
        self.tape.nodes[-1].output[0] = self.output

    def _group_bias(self, group: HeadGroup, offset: int) -> Value:
        """Relative position bias of a group: `[num_heads, entries]`."""
        table = self.inputs["bias_table"]
        end = offset + group.bias_entries
        return table.gather(np.arange(offset, end), axis=0).reshape(group.num_heads, -1)

    def _rows_of(self, source: Value, which: int, group: HeadGroup) -> Value:
        """Rows of the packed projection: `source` `[..., N]` → index `[..., num_heads, N]`.

        Args:
            source: Tokens.
            which: 0 query, 1 key, 2 value.
            group: Whose heads.
        """
        heads = group.head_offset + np.arange(group.num_heads)
        if self.spec.qkv_layout == "3HD":
            row_in_token = which * self.spec.qkv_heads + heads
        else:
            row_in_token = heads * 3 + which
        rows_per_token = 3 * self.spec.qkv_heads
        return source.unsqueeze(-2) * rows_per_token + row_in_token[:, None]

    def _scaled(self, query: Value, key: Value, group: HeadGroup) -> tuple[Value, Value]:
        """Scale queries, or normalise queries and keys; `[..., num_heads, N, D]` each."""
        if self.spec.qk_mode == "dot":
            scale = self.tape.value(np.float32(self.spec.effective_softmax_scale))
            return query * self._typed(scale), key
        heads = group.head_offset + np.arange(group.num_heads)
        scale = self.inputs["logit_scale"].gather(heads, axis=0).reshape(group.num_heads, 1, 1)
        query, key = self._normalized(query) * scale, self._normalized(key)
        return self._typed(query), self._typed(key)

    def _normalized(self, x: Value) -> Value:
        """Divide by the length, in float32: squares of numbers above 256 are beyond FP16."""
        x = self._in_float(x)
        norm = self.tape.op("ReduceL2", x, np.array([-1]), keepdims=1)
        return self.tape.op("Div", x, norm.at_least(np.float32(NORM_EPSILON)))

    def _windows(
        self, rows: Value, group: HeadGroup, bias: Value | None
    ) -> tuple[Value, Value, Value]:
        """Attend within windows (block and grid mode).

        Returns:
            Rows of results `[B, nW * num_heads * N, D]`, the one of each token and head
            `[H*W, num_heads]`, and their number.
        """
        tape, spec = self.tape, self.spec
        axes = []
        for length, window, shift in zip(
            (self.height, self.width), group.window_size, group.shift_size, strict=True
        ):
            if group.mode == "grid":
                axes.append(grid_axis(tape, length, window))
            else:
                axes.append(block_axis(tape, length, window, shift, spec.shift_pad_order))
        row, col = axes
        tokens = row.window * col.window
        row_source, col_source = row.source.unsqueeze(1, 3), col.source.unsqueeze(0, 2)
        absent = (row_source < 0) | (col_source < 0)
        source = tape.where(absent, PAD, row_source * self.width + col_source).reshape(-1, tokens)
        query, key, value = (
            rows.gather(self._rows_of(source.at_least(0), which, group), axis=1)
            for which in range(3)
        )
        if spec.pad_mode == "bias_kv" and _may_hold(source, PAD):
            key, value = self._with_padding(source, key, value, group)
        query, key = self._scaled(query, key, group)
        bias, mask = self._window_bias(bias, group), self._mask(source, row, col)
        windows = row.count * col.count
        if self.form == "portable":
            factors = WindowFactors(query, key, value, sum_constants(bias, mask))
        else:
            sizes = (group.num_heads, tokens, spec.head_dim)
            factors = fold_windows((query, key, value), bias, mask, windows, sizes)
        result = self._attend(factors, group)
        count = windows * tokens * group.num_heads
        shape = (-1, count, spec.head_dim) if factors.in_batch else (0, -1, spec.head_dim)
        window_of = (row.window_of * col.count).unsqueeze(1) + col.window_of.unsqueeze(0)
        member_of = (row.member_of * col.window).unsqueeze(1) + col.member_of.unsqueeze(0)
        heads = np.arange(group.num_heads)[None, :]
        place = window_of.reshape(-1, 1) * tokens * group.num_heads + member_of.reshape(-1, 1)
        return result.reshape(*shape), place + tokens * heads, count

    def _attend(self, factors: WindowFactors, group: HeadGroup) -> Value:
        """Weigh values with the softmax of logits; the result has their shape."""
        tape, step = self.tape, self.spec.qkv_quant_scale
        terms = [self._typed(term) for term in factors.terms]
        if self.form == "attention":
            inputs = [factors.query, factors.key, factors.value]
            if terms:
                inputs.append(terms[0] if len(terms) == 1 else terms[0] + terms[1])
            return tape.op("Attention", *inputs, scale=1.0)
        is_int8 = group in self.int8_groups

        def rounded(x: Value, quant_scale: float) -> Value:
            return self._rounded(x, quant_scale) if is_int8 else x

        query = rounded(factors.query, step * self.spec.effective_softmax_scale)
        key, value = rounded(factors.key, step), rounded(factors.value, step)
        axes = [0, 1, 2, 4, 3] if self.form == "portable" else [0, 1, 3, 2]
        logits = tape.op("MatMul", query, tape.op("Transpose", key, perm=axes))
        for term in terms:
            logits = logits + term
        weights = tape.op("Softmax", logits, axis=-1)
        result = tape.op("MatMul", rounded(weights, PROBABILITY_QUANT_SCALE), value)
        return rounded(result, self.spec.out_quant_scale)

    def _with_padding(
        self, source: Value, key: Value, value: Value, group: HeadGroup
    ) -> tuple[Value, Value]:
        """Give padded tokens the key and value of the projection's bias."""
        spec = self.spec
        padded = self._typed(self._pad_kv()).reshape(2, spec.qkv_heads, 1, spec.head_dim)
        heads = group.head_offset + np.arange(group.num_heads)
        is_pad = source.equals(PAD).unsqueeze(1, 3)  # [nW, 1, N, 1]
        pad_key, pad_value = (
            padded.gather(which, axis=0).gather(heads, axis=0) for which in range(2)
        )
        return self.tape.where(is_pad, pad_key, key), self.tape.where(is_pad, pad_value, value)

    def _window_bias(self, bias: Value | None, group: HeadGroup) -> Value | None:
        """Bias of each query and key of a window: `[num_heads, N, N]`."""
        if bias is None:
            return None
        rows, cols = group.window_size
        dy = np.arange(rows)[:, None] - np.arange(rows) + rows - 1
        dx = np.arange(cols)[:, None] - np.arange(cols) + cols - 1
        index = dy[:, None, :, None] * (2 * cols - 1) + dx[None, :, None, :]
        return bias.gather(index.reshape(rows * cols, rows * cols), axis=1)

    def _mask(self, source: Value, row: WindowAxis, col: WindowAxis) -> Value | None:
        """What is added to the logits of each window: `[nW, 1, N, N]`, `None` if nothing is."""
        tape, spec = self.tape, self.spec
        mask: Value | None = None
        if row.label is not None or col.label is not None:
            row_label, col_label = (
                axis.source * 0 if axis.label is None else axis.label for axis in (row, col)
            )
            label = row_label.unsqueeze(1, 3) * 3 + col_label.unsqueeze(0, 2)
            label = label.reshape(-1, row.window * col.window)
            agree = label.unsqueeze(2).equals(label.unsqueeze(1))
            mask = tape.where(agree, np.float32(0), np.float32(spec.mask_value))
        if spec.pad_mode == "mask" and _may_hold(source, PAD):
            pad = source.equals(PAD)
            mask = mask if mask is not None else tape.value(np.float32(0))
            mask = tape.where(pad.unsqueeze(1), np.float32(-math.inf), mask)
            # The result of a padded query is never read; left unmasked it stays finite.
            mask = tape.where(pad.unsqueeze(2), np.float32(0), mask)
        if mask is None or (mask.known is not None and not mask.known.any()):
            return None
        return mask.unsqueeze(1)

    def _neighbors(
        self, rows: Value, group: HeadGroup, bias: Value | None
    ) -> tuple[Value, Value, Value]:
        """Attend to the nearest tokens (neighborhood mode).

        Returns:
            Rows of results `[B, num_heads * H*W, D]`, the one of each token and head
            `[H*W, num_heads]`, and their number.
        """
        tape = self.tape
        tokens = self.height * self.width
        (window_rows, window_cols), (row_step, col_step) = group.window_size, group.dilation
        row = neighbor_axis(tape, self.height, window_rows, row_step, causal=False)
        col = neighbor_axis(tape, self.width, window_cols, col_step, causal=group.causal)
        row_source, col_source = row.source.unsqueeze(1, 3), col.source.unsqueeze(0, 2)
        absent = (row_source < 0) | (col_source < 0)
        source = tape.where(absent, PAD, row_source * self.width + col_source)
        source = source.reshape(tokens, -1)  # [H*W, K]
        query, key, value = (
            rows.gather(self._rows_of(tape.arange(tokens), which, group), axis=1)
            for which in range(3)
        )  # [B, num_heads, H*W, D] each
        query, key = self._scaled(query, key, group)
        chosen = source.at_least(0)
        keys, values = key.gather(chosen, axis=2), value.gather(chosen, axis=2)
        logits = tape.op(
            "MatMul", query.unsqueeze(3), tape.op("Transpose", keys, perm=[0, 1, 2, 4, 3])
        )  # [B, num_heads, H*W, 1, K]
        if bias is not None:
            dy = row.offset.unsqueeze(1, 3) + (window_rows - 1)
            dx = col.offset.unsqueeze(0, 2) + (window_cols - 1)
            index = dy * (2 * window_cols - 1) + dx
            logits = logits + self._typed(bias.gather(index.reshape(tokens, -1), axis=1)).unsqueeze(
                2
            )
        if _may_hold(source, PAD):
            mask = tape.where(source < 0, np.float32(-math.inf), np.float32(0))
            logits = logits + self._typed(mask).unsqueeze(1)
        result = tape.op("MatMul", tape.op("Softmax", logits, axis=-1), values)
        heads = np.arange(group.num_heads)[None, :]
        place = tape.arange(tokens).unsqueeze(1) + tokens * heads
        rows_out = result.reshape(0, -1, self.spec.head_dim)
        return rows_out, place, tokens * group.num_heads


def _may_hold(value: Value, entry: int) -> bool:
    return value.known is None or bool((value.known == entry).any())
