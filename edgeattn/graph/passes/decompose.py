"""Rewrite attention nodes into standard ONNX: one gather in, one gather out.

The packed projection is seen as rows of `head_dim` numbers. An index table, made from the index
rule, takes the rows of queries, keys and values straight into windows, heads and tokens; another
takes the results back to the map. There is no roll, no partition, no transpose of activations.
For static maps the tables are constants; for dynamic ones they are computed from H and W in the
graph, by the same formulas.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import numpy_helper

from edgeattn.graph.fused_mha import int8_group_obstacle
from edgeattn.graph.int8 import PROBABILITY_QUANT_SCALE
from edgeattn.graph.op import is_attention, spec_of_node
from edgeattn.graph.shapes import TensorType, infer_types
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

# Above this a sum of constant bias and mask is not stored; it is added at run time.
MAX_CONSTANT_LOGITS = 4 << 20


def decompose(model: onnx.ModelProto, *, int8_products: bool = False) -> onnx.ModelProto:
    """Replace every attention node by standard operators.

    All other nodes and all tensor names are kept, so that a calibration table of the graph fits
    the result too.

    Args:
        model: Opset 18 or newer; batch, height and width may be dynamic. Not changed.
        int8_products: Round the factors of the products inside nodes of the INT8 form, so that
            they can be computed in INT8, where TensorRT can fuse that (`fused_mha`). Queries, keys
            and values are on INT8 steps already; only the probabilities lose by it.

    Returns:
        A new graph without attention nodes.

    Raises:
        GraphError: If an attention node is malformed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if not any(is_attention(node) for node in model.graph.node):
        return result
    types = infer_types(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if is_attention(node):
            tape = Tape(node.name or node.output[0])
            _Decomposition(tape, node, types, weights, int8_products).write()
            nodes.extend(tape.nodes)
            result.graph.initializer.extend(tape.constants)
        else:
            nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    _drop_unused_weights(result)
    return result


def _drop_unused_weights(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    used.update(value.name for value in model.graph.output)
    weights = model.graph.initializer
    for index in reversed(range(len(weights))):  # a list of those kept would copy them
        if weights[index].name not in used:
            del weights[index]
    domains = {node.domain for node in model.graph.node}
    opsets = [o for o in model.opset_import if o.domain in domains or o.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(opsets)


class _Decomposition:
    """Writes the standard form of one attention node on a tape."""

    def __init__(
        self,
        tape: Tape,
        node: onnx.NodeProto,
        types: dict[str, TensorType],
        weights: dict[str, onnx.TensorProto],
        int8_products: bool,
    ) -> None:
        self.tape = tape
        self.spec: AttentionSpec = spec_of_node(node)
        self.output = node.output[0]
        inputs = dict(zip(self.spec.input_names, node.input, strict=True))
        self.inputs = {
            name: tape.value(numpy_helper.to_array(weights[tensor]))
            if tensor in weights
            else tape.tensor(tensor)
            for name, tensor in inputs.items()
        }
        self.qkv_type = types.get(inputs["qkv"], TensorType(onnx.TensorProto.FLOAT, None))
        sizes = self.qkv_type.shape or ("?", "?", "?", "?")
        self.height = self._size(sizes[1], axis=1)
        self.width = self._size(sizes[2], axis=2)
        height, width = (size if isinstance(size, int) else None for size in sizes[1:3])
        self.int8_groups = [
            group
            for group in self.spec.head_groups
            if int8_products and not int8_group_obstacle(self.spec, group, height, width)
        ]

    def _size(self, size: int | str, axis: int) -> Value:
        if isinstance(size, int):
            return self.tape.value(size)
        return self.tape.op("Shape", self.inputs["qkv"]).gather(axis, axis=0)

    def write(self) -> None:
        """Append the nodes; the last one makes the attention node's output."""
        tape, spec = self.tape, self.spec
        rows = self._in_float(self.inputs["qkv"]).reshape(0, -1, spec.head_dim)
        results, indices = [], []
        offset: Value = tape.value(0)
        bias_offset = 0
        for group in spec.head_groups:
            bias = None
            if spec.has_bias:
                bias = self._group_bias(group, bias_offset)
                bias_offset += group.bias_entries
            attend = self._neighbors if group.mode == "neighborhood" else self._windows
            result, index, count = attend(rows, group, bias)
            results.append(result.reshape(0, -1, spec.head_dim))
            indices.append(index + offset)
            offset = offset + count
        merged = results[0] if len(results) == 1 else tape.op("Concat", *results, axis=1)
        index = indices[0] if len(indices) == 1 else tape.op("Concat", *indices, axis=1)
        out = merged.gather(index, axis=1)  # [B, H*W, heads, D]
        out = out.reshape(0, self.height, self.width, spec.out_channels)
        self._finish(out)

    def _in_float(self, qkv: Value) -> Value:
        """Softmax and sums are float32 whatever the type of the tensors around them."""
        if self.qkv_type.element == onnx.TensorProto.INT8:
            scale = np.float32(self.spec.qkv_quant_scale)
            return self.tape.op("DequantizeLinear", qkv, np.array(scale), self._int8_zero())
        if self.qkv_type.element in (onnx.TensorProto.FLOAT, onnx.TensorProto.UNDEFINED):
            return qkv
        return self.tape.op("Cast", qkv, to=onnx.TensorProto.FLOAT)

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
            out = self.tape.op("QuantizeLinear", out, scale, self._int8_zero())
        elif element in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
            out = self.tape.op("Cast", out, to=element)
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
            return query * np.float32(self.spec.effective_softmax_scale), key
        heads = group.head_offset + np.arange(group.num_heads)
        scale = self.inputs["logit_scale"].gather(heads, axis=0).reshape(group.num_heads, 1, 1)
        return self._normalized(query) * scale, self._normalized(key)

    def _normalized(self, x: Value) -> Value:
        norm = self.tape.op("ReduceL2", x, np.array([-1]), keepdims=1)
        return self.tape.op("Div", x, norm.at_least(np.float32(NORM_EPSILON)))

    def _windows(
        self, rows: Value, group: HeadGroup, bias: Value | None
    ) -> tuple[Value, Value, Value]:
        """Attend within windows (block and grid mode).

        Returns:
            Results `[B, nW, num_heads, N, D]`, the row of each token and head in them
            `[H*W, num_heads]`, and their number of rows.
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
        mask = self._mask(source, row, col)
        result = self._attend(query, key, value, self._window_bias(bias, group), mask, group)
        window_of = (row.window_of * col.count).unsqueeze(1) + col.window_of.unsqueeze(0)
        member_of = (row.member_of * col.window).unsqueeze(1) + col.member_of.unsqueeze(0)
        heads = np.arange(group.num_heads)[None, :]
        place = window_of.reshape(-1, 1) * tokens * group.num_heads + member_of.reshape(-1, 1)
        count = row.count * col.count * tokens * group.num_heads
        return result, place + tokens * heads, count

    def _attend(
        self,
        query: Value,
        key: Value,
        value: Value,
        bias: Value | None,
        mask: Value | None,
        group: HeadGroup,
    ) -> Value:
        """Weigh values: `[B, nW, num_heads, N, D]` all, the query scaled."""
        tape, step = self.tape, self.spec.qkv_quant_scale
        is_int8 = group in self.int8_groups

        def rounded(x: Value, quant_scale: float) -> Value:
            return self._rounded(x, quant_scale) if is_int8 else x

        query = rounded(query, step * self.spec.effective_softmax_scale)
        key, value = rounded(key, step), rounded(value, step)
        logits = tape.op("MatMul", query, tape.op("Transpose", key, perm=[0, 1, 2, 4, 3]))
        weights = tape.op("Softmax", self._biased(logits, bias, mask), axis=-1)
        result = tape.op("MatMul", rounded(weights, PROBABILITY_QUANT_SCALE), value)
        return rounded(result, self.spec.out_quant_scale)

    def _with_padding(
        self, source: Value, key: Value, value: Value, group: HeadGroup
    ) -> tuple[Value, Value]:
        """Give padded tokens the key and value of the projection's bias."""
        spec = self.spec
        padded = self._pad_kv().reshape(2, spec.qkv_heads, 1, spec.head_dim)
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

    def _biased(self, logits: Value, bias: Value | None, mask: Value | None) -> Value:
        if bias is not None and mask is not None:
            sizes = [term.known.shape for term in (bias, mask) if term.known is not None]
            if len(sizes) == 2 and math.prod(np.broadcast_shapes(*sizes)) <= MAX_CONSTANT_LOGITS:
                bias, mask = bias + mask, None
        for term in (bias, mask):
            if term is not None:
                logits = logits + term
        return logits

    def _neighbors(
        self, rows: Value, group: HeadGroup, bias: Value | None
    ) -> tuple[Value, Value, Value]:
        """Attend to the nearest tokens (neighborhood mode).

        Returns:
            Results `[B, num_heads, H*W, 1, D]`, the row of each token and head in them
            `[H*W, num_heads]`, and their number of rows.
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
            logits = logits + bias.gather(index.reshape(tokens, -1), axis=1).unsqueeze(2)
        if _may_hold(source, PAD):
            mask = tape.where(source < 0, np.float32(-math.inf), np.float32(0))
            logits = logits + mask.unsqueeze(1)
        result = tape.op("MatMul", tape.op("Softmax", logits, axis=-1), values)
        heads = np.arange(group.num_heads)[None, :]
        place = tape.arange(tokens).unsqueeze(1) + tokens * heads
        return result, place, tokens * group.num_heads


def _may_hold(value: Value, entry: int) -> bool:
    return value.known is None or bool((value.known == entry).any())
