"""Attention written out in standard operators as other people's exporters do, in small graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from tests.graphs import classifier, from_text

ROWS, COLS, CHANNELS, HEADS, WINDOW, SHIFT = 6, 9, 8, 2, 3, 1
WINDOWS = (ROWS // WINDOW) * (COLS // WINDOW)
TOKENS = WINDOW * WINDOW
HEAD_DIM = CHANNELS // HEADS
MASK_VALUE = -100.0

_rng = np.random.default_rng(5)
QKV = 0.5 * _rng.standard_normal((CHANNELS, 3 * CHANNELS)).astype(np.float32)
OUT = 0.5 * _rng.standard_normal((CHANNELS, CHANNELS)).astype(np.float32)


def windowed(*, blocks: int = 2, last_is_global: bool = False) -> onnx.ModelProto:
    """Blocks of windowed attention on `x` `[1, 6, 9, 8]`, every other one shifted; output `y`.

    Args:
        blocks: How many.
        last_is_global: Let every token of the last block see every other one, without windows.
    """
    lines, x = [], "x"
    for block in range(blocks):
        shift = SHIFT * (block % 2)
        whole = last_is_global and block == blocks - 1
        lines += _block(f"b{block}_", x, shift, whole=whole)
        x = f"b{block}_y"
    lines.append(f"y = Identity({x})")
    model = from_text(
        f"g (float[1,{ROWS},{COLS},{CHANNELS}] x) => (float[1,{ROWS},{COLS},{CHANNELS}] y) {{\n"
        + "\n".join(lines)
        + "\n}"
    )
    _add(model, "qkv_weight", QKV)
    _add(model, "out_weight", OUT)
    _add(model, "mask", _mask())
    _add(model, "scale", np.float32(HEAD_DIM**-0.5))
    for name, shape in _SHAPES.items():
        _add(model, name, np.array(shape, np.int64))
    for node in model.graph.node:
        node.name = f"{node.output[0].partition('_')[0]}/{node.op_type}_{node.output[0]}"
    return model


_SHAPES = {
    "cut": (1, ROWS // WINDOW, WINDOW, COLS // WINDOW, WINDOW, CHANNELS),
    "in_windows": (WINDOWS, TOKENS, CHANNELS),
    "in_one": (1, ROWS * COLS, CHANNELS),
    "by_head": (0, 0, HEADS, HEAD_DIM),
    "masked": (1, WINDOWS, HEADS, TOKENS, TOKENS),
    "unmasked": (WINDOWS, HEADS, TOKENS, TOKENS),
    "joined": (0, 0, CHANNELS),
    "uncut": (1, ROWS // WINDOW, COLS // WINDOW, WINDOW, WINDOW, CHANNELS),
    "map": (1, ROWS, COLS, CHANNELS),
}


def save_graphs(folder: Path) -> None:
    """Write `swin.onnx`, all windows; `mixed.onnx`, one of three without; `plain.onnx`, none."""
    onnx.save(windowed(), folder / "swin.onnx")
    onnx.save(windowed(blocks=3, last_is_global=True), folder / "mixed.onnx")
    onnx.save(classifier(), folder / "plain.onnx")


def _block(p: str, x: str, shift: int, *, whole: bool) -> list[str]:
    """Write one block: shift, windows, projection, attention, and all of it back."""
    lines = [*_roll(f"{p}rolled", x, shift)]
    if whole:
        lines.append(f"{p}tokens = Reshape({p}rolled, in_one)")
    else:
        lines += [
            f"{p}cut = Reshape({p}rolled, cut)",
            f"{p}windows = Transpose<perm = [0, 1, 3, 2, 4, 5]>({p}cut)",
            f"{p}tokens = Reshape({p}windows, in_windows)",
        ]
    lines += [
        f"{p}packed = MatMul({p}tokens, qkv_weight)",
        f"{p}q3, {p}k3, {p}v3 = Split<axis = -1, num_outputs = 3>({p}packed)",
    ]
    for part, perm in (("q", "0, 2, 1, 3"), ("k", "0, 2, 3, 1"), ("v", "0, 2, 1, 3")):
        lines += [
            f"{p}{part}4 = Reshape({p}{part}3, by_head)",
            f"{p}{part} = Transpose<perm = [{perm}]>({p}{part}4)",
        ]
    lines += [f"{p}qk = MatMul({p}q, {p}k)", f"{p}logits = Mul({p}qk, scale)"]
    logits = f"{p}logits"
    if shift and not whole:
        lines += [
            f"{p}apart = Reshape({logits}, masked)",
            f"{p}sum = Add({p}apart, mask)",
            f"{p}together = Reshape({p}sum, unmasked)",
        ]
        logits = f"{p}together"
    lines += [
        f"{p}softmax = Softmax<axis = -1>({logits})",
        f"{p}heads = MatMul({p}softmax, {p}v)",
        f"{p}side = Transpose<perm = [0, 2, 1, 3]>({p}heads)",
        f"{p}joined = Reshape({p}side, joined)",
    ]
    if whole:
        lines.append(f"{p}back = Reshape({p}joined, map)")
    else:
        lines += [
            f"{p}uncut = Reshape({p}joined, uncut)",
            f"{p}side_by_side = Transpose<perm = [0, 1, 3, 2, 4, 5]>({p}uncut)",
            f"{p}back = Reshape({p}side_by_side, map)",
        ]
    lines += _roll(f"{p}unrolled", f"{p}back", -shift)
    return [
        *lines,
        f"{p}projected = MatMul({p}unrolled, out_weight)",
        f"{p}y = Add({x}, {p}projected)",
    ]


def _roll(name: str, x: str, shift: int) -> list[str]:
    """Write `torch.roll(x, (-shift, -shift), (1, 2))` as slices that change places."""
    if not shift:
        return [f"{name} = Identity({x})"]
    lines = []
    for axis, (source, result) in enumerate(((x, f"{name}_rows"), (f"{name}_rows", name)), 1):
        lines += [
            f"{result}_at = Constant<value_ints = [{shift}]>()",
            f"{result}_axis = Constant<value_ints = [{axis}]>()",
            f"{result}_first = Constant<value_ints = [0]>()",
            f"{result}_last = Constant<value_ints = [9223372036854775807]>()",
            f"{result}_a = Slice({source}, {result}_at, {result}_last, {result}_axis)",
            f"{result}_b = Slice({source}, {result}_first, {result}_at, {result}_axis)",
            f"{result} = Concat<axis = {axis}>({result}_a, {result}_b)",
        ]
    return lines


def _mask() -> np.ndarray:
    """Forbid tokens that only the shift brought into one window, as Swin does."""
    label = np.zeros((ROWS, COLS), int)
    for axis, size in enumerate((ROWS, COLS)):
        place = np.arange(size)
        part = (place >= size - WINDOW).astype(int) + (place >= size - SHIFT)
        label += 3**axis * (part[:, None] if axis == 0 else part[None, :])
    cut = label.reshape(ROWS // WINDOW, WINDOW, COLS // WINDOW, WINDOW).transpose(0, 2, 1, 3)
    cut = cut.reshape(WINDOWS, TOKENS)
    mask = np.where(cut[:, :, None] == cut[:, None, :], 0, MASK_VALUE).astype(np.float32)
    return mask[None, :, None]


def _add(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))


def expected(x: np.ndarray, *, blocks: int = 2) -> np.ndarray:
    """Compute what `windowed` does, in float64, by windows cut from the map."""
    x = x.astype(np.float64)
    mask = _mask()[0, :, 0].reshape(ROWS // WINDOW, COLS // WINDOW, TOKENS, TOKENS)
    for block in range(blocks):
        shift = SHIFT * (block % 2)
        rolled, out = np.roll(x, (-shift, -shift), (1, 2)), np.zeros_like(x)
        for row in range(0, ROWS, WINDOW):
            for col in range(0, COLS, WINDOW):
                area = np.s_[0, row : row + WINDOW, col : col + WINDOW]
                packed = rolled[area].reshape(TOKENS, CHANNELS) @ QKV
                q, k, v = (part.reshape(TOKENS, HEADS, -1) for part in np.split(packed, 3, axis=1))
                logits = np.einsum("qhd,khd->hqk", q, k) * HEAD_DIM**-0.5
                logits += mask[row // WINDOW, col // WINDOW] if shift else 0
                weights = np.exp(logits - logits.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                heads = np.einsum("hqk,khd->qhd", weights, v)
                out[area] = heads.reshape(WINDOW, WINDOW, CHANNELS)
        x = x + np.roll(out, (shift, shift), (1, 2)) @ OUT
    return x
