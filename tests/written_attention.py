"""Windowed attention written out as ONNX nodes in many spellings, right ones and near misses.

The graphs are made node by node, without an exporter: what is drawn at random here is how a graph
says something, and, for the near misses, one thing that it gets wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18

# One thing wrong with a graph: no node may stand for it.
FAULTS = (
    "mask off by one",
    "mask with one entry of its own",
    "bias with one entry of its own",
    "overlapping windows",
    "keys of the next window",
    "values of the next window",
    "softmax over the queries",
    "one scale per head",
)
# What comes after attention may be anything: a node may stand for the attention before it.
MISPLACEMENTS = ("tokens put back elsewhere", "two tokens put back in each other's place")
# Without a mask it is plain windows on a map that was rolled before.
UNMASKED = "shift without mask"


@dataclass(frozen=True)
class Writing:
    """How a graph writes a layer of window attention on maps `[B, H, W, C]`.

    Attributes:
        map_size: Rows and columns of tokens.
        window: Likewise of a window (of its members in a grid).
        shift: Likewise of the shift; `(0, 0)` in a grid.
        mode: `block` or `grid`.
        heads: Number of heads, of `head_dim` channels.
        roll_first: Whether the map is rolled before it is padded.
        roll: `slice`, `gather`, or `slices_of_none`: a roll by 0 is written out too.
        partition: `reshape`, `gather` (of tokens) or `split` (and stacked).
        projection: `packed`, `head_major`, `three`, or `packed_before` (the tokens are moved).
        scale: `query`, `logits` or `both`.
        bias: `none`, `added` or `gathered`.
        mask_value: Added to the logits of tokens that only the shift brought together.
        mask: `flat`, `unfolded` (windows on an axis of their own) or `where`.
        detours: Movements that cancel out, along the way.
        fault: One of `FAULTS` or `MISPLACEMENTS`, `UNMASKED`, or nothing.
    """

    map_size: tuple[int, int]
    window: tuple[int, int]
    shift: tuple[int, int] = (0, 0)
    mode: str = "block"
    heads: int = 2
    head_dim: int = 4
    roll_first: bool = False
    roll: str = "slice"
    partition: str = "reshape"
    projection: str = "packed"
    scale: str = "query"
    bias: str = "added"
    mask: str = "flat"
    mask_value: float = -50.0
    detours: tuple[str, ...] = ()
    fault: str = ""
    seed: int = 0

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return self.heads * self.head_dim

    @property
    def padded(self) -> tuple[int, int]:
        """Rows and columns of the padded map."""
        rows, cols = (-(-n // w) * w for n, w in zip(self.map_size, self.window, strict=True))
        return rows, cols

    @property
    def count(self) -> int:
        """Windows of a map."""
        return math.prod(n // w for n, w in zip(self.padded, self.window, strict=True))

    @property
    def places(self) -> int:
        """Tokens per window."""
        return math.prod(self.window)


@dataclass(frozen=True)
class Value:
    """A tensor of the graph."""

    name: str
    shape: tuple[int, ...]


class Writer:
    """Nodes and weights of a graph, as they are written."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def constant(self, array: object, dtype: type = np.int64) -> str:
        """Add a weight."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def drawn(self, *shape: int) -> Value:
        """Add a weight drawn from a normal distribution."""
        array = self.rng.normal(size=shape) / math.sqrt(shape[0] if len(shape) > 1 else 1)
        return Value(self.constant(array, np.float32), shape)

    def node(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: object
    ) -> Value:
        """Add a node of one output."""
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return Value(name, tuple(shape))

    def reshape(self, x: Value, *shape: int) -> Value:
        """Give `x` another shape."""
        return self.node("Reshape", [x.name, self.constant(shape)], shape)

    def transpose(self, x: Value, *perm: int) -> Value:
        """Order the axes of `x` anew."""
        return self.node("Transpose", [x.name], [x.shape[p] for p in perm], perm=perm)

    def slice(self, x: Value, axis: int, start: int, stop: int) -> Value:
        """Take a range of `x`."""
        shape = list(x.shape)
        shape[axis] = stop - start
        bounds = [self.constant([n]) for n in (start, stop, axis)]
        return self.node("Slice", [x.name, *bounds], shape)

    def gather(self, x: Value, axis: int, index: NDArray[np.int64]) -> Value:
        """Pick from an axis of `x`."""
        shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
        return self.node("Gather", [x.name, self.constant(index)], shape, axis=axis)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """Put parts together."""
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.node("Concat", [part.name for part in parts], shape, axis=axis)

    def pad(self, x: Value, after: Sequence[int]) -> Value:
        """Put zeros behind each axis."""
        if not any(after):
            return x
        shape = [n + m for n, m in zip(x.shape, after, strict=True)]
        return self.node("Pad", [x.name, self.constant([0] * len(after) + list(after))], shape)

    def binary(self, op: str, x: Value, y: Value) -> Value:
        """Combine two tensors, the second no larger than the first."""
        return self.node(op, [x.name, y.name], x.shape)

    def matmul(self, x: Value, y: Value) -> Value:
        """Multiply matrices."""
        return self.node("MatMul", [x.name, y.name], (*x.shape[:-1], y.shape[-1]))

    def linear(self, x: Value, channels: int) -> Value:
        """Project the last axis."""
        y = self.matmul(x, self.drawn(x.shape[-1], channels))
        return self.binary("Add", y, self.drawn(channels))

    def roll(self, x: Value, axis: int, shift: int, spelling: str) -> Value:
        """Take what is `shift` further, around the end."""
        size = x.shape[axis]
        if shift % size == 0 and spelling != "slices_of_none":
            return x
        if spelling == "gather":
            return self.gather(x, axis, (np.arange(size) + shift) % size)
        cut = shift % size
        return self.concat([self.slice(x, axis, cut, size), self.slice(x, axis, 0, cut)], axis)

    def detour(self, x: Value, kind: str) -> Value:
        """Move `x` somewhere and back."""
        if kind == "transposed":
            last = len(x.shape) - 1
            order = [*range(1, last + 1), 0]
            return self.transpose(self.transpose(x, *order), last, *range(last))
        if kind == "flattened":
            return self.reshape(self.reshape(x, -1), *x.shape)
        if kind == "cut":
            size = x.shape[1]
            parts = [self.slice(x, 1, 0, size // 2), self.slice(x, 1, size // 2, size)]
            return self.concat(parts, 1)
        if kind == "reversed":
            backwards = np.arange(x.shape[1])[::-1].copy()
            return self.gather(self.gather(x, 1, backwards), 1, backwards)
        assert kind == "doubled", kind
        return self.slice(self.concat([x, x], 1), 1, x.shape[1], 2 * x.shape[1])


DETOURS = ("transposed", "flattened", "cut", "reversed", "doubled")


def window_index(w: Writing) -> NDArray[np.int64]:
    """Give the place in the padded map of each token of each window, `[windows, places]`."""
    (rows, cols), (wh, ww) = w.padded, w.window
    places = np.arange(rows * cols)
    if w.mode == "grid":
        cut = places.reshape(wh, rows // wh, ww, cols // ww).transpose(1, 3, 0, 2)
    else:
        cut = places.reshape(rows // wh, wh, cols // ww, ww).transpose(0, 2, 1, 3)
    return cut.reshape(w.count, w.places)


def window_mask(w: Writing) -> NDArray[np.float32]:
    """Give what the shift adds to the logits, `[windows, places, places]`."""
    (rows, cols), label = w.padded, np.zeros(w.padded, np.int64)
    late = 1 if w.fault == "mask off by one" else 0
    for axis, (size, window, shift) in enumerate(zip((rows, cols), w.window, w.shift, strict=True)):
        place = np.arange(size)
        region = (place >= size - window).astype(int) + (place >= size - shift + late)
        label += (region * 3**axis).reshape((-1, 1) if axis == 0 else (1, -1)) if shift else 0
    label = label.reshape(-1)[window_index(w)]
    mask = np.where(label[:, :, None] == label[:, None, :], 0, w.mask_value).astype(np.float32)
    if w.fault == "mask with one entry of its own":
        mask[0, 0, -1] -= 30
    return mask


def position_index(window: tuple[int, int]) -> NDArray[np.int64]:
    """Give the entry of the bias table for each pair of places, `[places, places]`."""
    rows, cols = (p.reshape(-1) for p in np.indices(window))
    dy = rows[:, None] - rows + window[0] - 1
    return dy * (2 * window[1] - 1) + cols[:, None] - cols + window[1] - 1


def write(w: Writing, batch: int = 2) -> onnx.ModelProto:
    """Write a layer: norm, windows, attention, and back; its input is `x`, its output `y`."""
    out = Writer(w.seed)
    (height, width), c = w.map_size, w.channels
    x = out.node("LayerNormalization", ["x", out.drawn(c).name], (batch, height, width, c), axis=-1)
    index = window_index(w)
    if w.fault == "overlapping windows":  # each begins with the last token of the one before
        index = index.copy()
        index[:, 0] = np.roll(index[:, -1], 1)
    if w.projection == "packed_before":
        x = out.linear(x, 3 * c)
    for kind in w.detours[:1]:
        x = out.detour(x, kind)
    x = _rolled_and_padded(out, w, x)
    windows = _windows(out, w, x, index)
    q, k, v = _projected(out, w, windows)
    y = _attention(out, w, q, k, v)
    for kind in w.detours[1:2]:
        y = out.detour(y, kind)
    y = _put_back(out, w, y, window_index(w), batch)
    y = out.linear(y, c)
    graph = helper.make_graph(
        [*out.nodes, helper.make_node("Identity", [y.name], ["y"], name="last")],
        "written",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, height, width, c))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y.shape)],
        out.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def _rolled_and_padded(out: Writer, w: Writing, x: Value) -> Value:
    after = [0, w.padded[0] - w.map_size[0], w.padded[1] - w.map_size[1], 0]
    if not w.roll_first:
        x = out.pad(x, after)
    for axis, shift in enumerate(w.shift, start=1):
        x = out.roll(x, axis, shift, w.roll)
    return out.pad(x, after) if w.roll_first else x


def _windows(out: Writer, w: Writing, x: Value, index: NDArray[np.int64]) -> Value:
    """Cut `[B, rows, cols, C]` into `[B·windows, places, C]`."""
    b, rows, cols, c = x.shape
    (wh, ww), flat = w.window, (b * w.count, w.places, c)
    if w.partition == "gather" or w.fault == "overlapping windows":
        return out.reshape(out.gather(out.reshape(x, b, rows * cols, c), 1, index), *flat)
    if w.mode == "grid":
        x = out.reshape(x, b, wh, rows // wh, ww, cols // ww, c)
        return out.reshape(out.transpose(x, 0, 2, 4, 1, 3, 5), *flat)
    if w.partition == "reshape":
        x = out.reshape(x, b, rows // wh, wh, cols // ww, ww, c)
        return out.reshape(out.transpose(x, 0, 1, 3, 2, 4, 5), *flat)
    parts = [
        out.slice(out.slice(x, 1, top, top + wh), 2, left, left + ww)
        for top in range(0, rows, wh)
        for left in range(0, cols, ww)
    ]
    stacked = out.concat([out.reshape(part, b, 1, w.places, c) for part in parts], 1)
    return out.reshape(stacked, *flat)


def _projected(out: Writer, w: Writing, x: Value) -> list[Value]:
    """Give queries, keys and values `[B·windows, heads, places, head_dim]`."""
    r, n, h, d = x.shape[0], w.places, w.heads, w.head_dim
    if w.projection == "three":
        parts = [out.linear(x, w.channels) for _ in range(3)]
        return [out.transpose(out.reshape(part, r, n, h, d), 0, 2, 1, 3) for part in parts]
    packed = x if w.projection == "packed_before" else out.linear(x, 3 * w.channels)
    if w.projection == "head_major":
        y = out.transpose(out.reshape(packed, r, n, h, 3 * d), 0, 2, 1, 3)
        return [out.slice(y, 3, i * d, (i + 1) * d) for i in range(3)]
    y = out.transpose(out.reshape(packed, r, n, 3, h, d), 2, 0, 3, 1, 4)
    return [out.gather(y, 0, np.asarray(i)) for i in range(3)]


def _next_window(out: Writer, w: Writing, x: Value) -> Value:
    r, *rest = x.shape
    x = out.reshape(x, r // w.count, w.count, *rest)
    return out.reshape(out.roll(x, 1, 1, "slice"), r, *rest)


def _attention(out: Writer, w: Writing, q: Value, k: Value, v: Value) -> Value:
    """Attend; give `[B·windows, places, C]`."""
    r, h, n, d = q.shape
    if w.fault == "keys of the next window":
        k = _next_window(out, w, k)
    if w.fault == "values of the next window":
        v = _next_window(out, w, v)
    scale = {"query": d**-0.5, "both": d**-0.25}.get(w.scale)
    if scale is not None:
        factor = Value(out.constant(scale, np.float32), ())
        q = out.binary("Mul", q, factor)
        k = out.binary("Mul", k, factor) if w.scale == "both" else k
    logits = out.matmul(q, out.transpose(k, 0, 1, 3, 2))
    if scale is None:
        logits = out.binary("Div", logits, Value(out.constant(d**0.5, np.float32), ()))
    if w.fault == "one scale per head":
        factors = np.linspace(1, 2, h).reshape(1, h, 1, 1)
        logits = out.binary("Mul", logits, Value(out.constant(factors, np.float32), ()))
    if w.bias != "none":
        logits = out.binary("Add", logits, _bias(out, w))
    if any(w.shift) and w.fault != UNMASKED:
        logits = _masked(out, w, logits)
    axis = -2 if w.fault == "softmax over the queries" else -1
    weights = out.node("Softmax", [logits.name], logits.shape, axis=axis)
    y = out.transpose(out.matmul(weights, v), 0, 2, 1, 3)
    return out.reshape(y, r, n, h * d)


def _bias(out: Writer, w: Writing) -> Value:
    """Give the bias `[heads, places, places]`."""
    entries, n, index = math.prod(2 * s - 1 for s in w.window), w.places, position_index(w.window)
    table = out.rng.normal(size=(entries, w.heads)).astype(np.float32)
    if w.bias == "gathered" and w.fault != "bias with one entry of its own":
        drawn = Value(out.constant(table, np.float32), table.shape)
        bias = out.reshape(out.gather(drawn, 0, index.reshape(-1)), n, n, w.heads)
        return out.transpose(bias, 2, 0, 1)
    bias = table[index].transpose(2, 0, 1).copy()
    if w.fault == "bias with one entry of its own":
        bias[0, 0, 0] += 1
    return Value(out.constant(bias, np.float32), bias.shape)


def _masked(out: Writer, w: Writing, logits: Value) -> Value:
    r, h, n, _ = logits.shape
    mask, shape = window_mask(w), (r // w.count, w.count, h, n, n)
    if w.mask == "flat":
        each = np.tile(mask[:, None], (shape[0], 1, 1, 1))
        return out.binary("Add", logits, Value(out.constant(each, np.float32), each.shape))
    unfolded = out.reshape(logits, *shape)
    if w.mask == "where":
        added = out.node(
            "Where",
            [
                out.constant(mask[:, None] < 0, np.bool_),
                out.constant(mask[:, None], np.float32),
                out.constant(0, np.float32),
            ],
            (w.count, 1, n, n),
        )
    else:
        added = Value(out.constant(mask[:, None], np.float32), (w.count, 1, n, n))
    return out.reshape(out.binary("Add", unfolded, added), *logits.shape)


def _put_back(out: Writer, w: Writing, y: Value, index: NDArray[np.int64], batch: int) -> Value:
    """Put `[B·windows, places, C]` where the tokens came from: `[B, H, W, C]`."""
    (rows, cols), (wh, ww), c = w.padded, w.window, w.channels
    if w.fault == "two tokens put back in each other's place":
        swapped = np.arange(w.places)
        swapped[[0, -1]] = swapped[[-1, 0]]
        y = out.gather(y, 1, swapped)
    if w.partition == "gather" or w.partition == "split":
        back = np.argsort(index.reshape(-1))
        y = out.gather(out.reshape(y, batch, rows * cols, c), 1, back)
        y = out.reshape(y, batch, rows, cols, c)
    elif w.mode == "grid":
        y = out.reshape(y, batch, rows // wh, cols // ww, wh, ww, c)
        y = out.reshape(out.transpose(y, 0, 3, 1, 4, 2, 5), batch, rows, cols, c)
    else:
        y = out.reshape(y, batch, rows // wh, cols // ww, wh, ww, c)
        y = out.reshape(out.transpose(y, 0, 1, 3, 2, 4, 5), batch, rows, cols, c)
    height, width = w.map_size
    if w.roll_first:
        y = out.slice(out.slice(y, 1, 0, height), 2, 0, width)
    for axis, shift in enumerate(w.shift, start=1):
        y = out.roll(y, axis, -shift, w.roll)
    if w.fault == "tokens put back elsewhere":
        y = out.roll(y, 2, 1, "slice")
    return y if w.roll_first else out.slice(out.slice(y, 1, 0, height), 2, 0, width)
