"""What head sizes our kernels take, as `edgeattn_check` of plugins/launch/check.cpp has it.

FP16, BF16 and INT8 move 16 bytes at a time and multiply in tiles: a head is a multiple of 8
channels there. Heads of other sizes are padded with zeros (`passes.pad_heads`).
"""

from __future__ import annotations

from onnx import TensorProto

_STEP, _MOST, _MOST_FP32 = 8, 128, 256
_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT8: "INT8",
}
_STEPPED = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8)


def fits_every_type(head_dim: int) -> bool:
    """Tell whether our kernels take such heads as they are, whatever the type."""
    return head_dim % _STEP == 0 and head_dim <= _MOST


def kernel_head_dim(head_dim: int, element: int) -> int:
    """Give the channels that a head has in our kernel, zeros included.

    Args:
        head_dim: Channels that it has.
        element: ONNX element type of the packed projection.
    """
    return -(-head_dim // _STEP) * _STEP if element in _STEPPED else head_dim


def kernel_head_obstacle(head_dim: int, element: int) -> str:
    """Say why our kernels do not take such heads, padded or not; empty if they do."""
    most = _MOST if element in _STEPPED else _MOST_FP32
    if head_dim <= most or element not in _NAMES:
        return ""
    return f"its heads have {head_dim} channels; our kernel takes up to {most} in {_NAMES[element]}"
