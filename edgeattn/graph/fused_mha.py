"""What TensorRT's own fused attention takes, in INT8 and in FP16 or BF16.

For engines without the plugin, attention in standard operators may still become one kernel. In
INT8 that needs Q/DQ before the product of queries and keys, after the softmax and after the product
with the values. Within these limits, that is; outside of them Q/DQ break the kernel up, and it is
slower than in FP16. TensorRT may decline what is within them too: its layer report tells.

All of it needs a GPU of compute capability 7.5 or newer, as every target of the toolkit has.

References:
    NVIDIA/TensorRT issues #2981 and #4167 quote the developer guide's limits; #3714 measures what
    is beyond them. nvidia-modelopt drops the Q/DQ of attention over 512 tokens as well. Release
    notes of TensorRT 10.14.1: heads of other sizes are padded to a multiple of 8.
"""

from __future__ import annotations

from edgeattn.spec import AttentionSpec, HeadGroup

INT8_HEAD_SIZES = (16, 32, 64)
INT8_MAX_TOKENS = 512

HALF_MIN_HEAD_SIZE = 16
HALF_MAX_HEAD_SIZE = 256
HALF_HEAD_SIZE_STEP = 8

QUERIES_APART = "each of its queries has keys of its own, which no fused attention takes"
NOT_HALF = "its products are in float32; TensorRT fuses FP16, BF16 and INT8"
NOT_INT8 = "its input and output are not both INT8"


def half_mha_obstacle(
    head_size: int | None,
    num_queries: int | None,
    num_keys: int | None,
    *,
    pads_heads: bool = False,
) -> str:
    """Say what keeps attention of these sizes from being fused in FP16 or BF16; empty if nothing.

    Args:
        head_size: Channels of a head; `None` if they are not known before the graph runs.
        num_queries: Tokens that attend to each other at once, likewise.
        num_keys: Tokens that they attend to, likewise.
        pads_heads: Whether this TensorRT pads heads to a multiple of 8.
    """
    rule = f"TensorRT fuses {HALF_MIN_HEAD_SIZE} to {HALF_MAX_HEAD_SIZE}"
    if not pads_heads:
        rule += f" in steps of {HALF_HEAD_SIZE_STEP}"
    if head_size is None:
        return f"its heads have an unknown number of channels; {rule} in FP16 and BF16"
    is_stepped = pads_heads or head_size % HALF_HEAD_SIZE_STEP == 0
    if not (HALF_MIN_HEAD_SIZE <= head_size <= HALF_MAX_HEAD_SIZE and is_stepped):
        return f"its heads have {head_size} channels; {rule} in FP16 and BF16"
    return QUERIES_APART if num_queries == 1 and num_keys != 1 else ""


def half_group_obstacle(spec: AttentionSpec, group: HeadGroup, *, pads_heads: bool = False) -> str:
    """Say what keeps a head group of an attention node from being fused in FP16 or BF16.

    Args:
        spec: The node's.
        group: One of its groups.
        pads_heads: Whether this TensorRT pads heads to a multiple of 8.

    Returns:
        The reason; empty if nothing stands against it.
    """
    if group.mode == "neighborhood":
        return QUERIES_APART
    return half_mha_obstacle(spec.head_dim, None, None, pads_heads=pads_heads)


def int8_mha_obstacle(head_size: int | None, num_queries: int | None, num_keys: int | None) -> str:
    """Say what keeps attention of these sizes from being fused in INT8; empty if nothing does.

    Args:
        head_size: Channels of a head; `None` if they are not known before the graph runs.
        num_queries: Tokens that attend to each other at once, likewise.
        num_keys: Tokens that they attend to, likewise.
    """
    sizes = ", ".join(map(str, INT8_HEAD_SIZES[:-1])) + f" or {INT8_HEAD_SIZES[-1]}"
    if head_size not in INT8_HEAD_SIZES:
        found = "an unknown number of" if head_size is None else head_size
        return f"its heads have {found} channels; TensorRT fuses {sizes} in INT8"
    if num_queries == 1 and num_keys != 1:
        return QUERIES_APART
    if num_queries is None or num_keys is None:
        return (
            "its number of tokens is not known before the graph runs; TensorRT fuses up to "
            f"{INT8_MAX_TOKENS} in INT8"
        )
    tokens = max(num_queries, num_keys)
    if tokens > INT8_MAX_TOKENS:
        return f"it is over {tokens} tokens; TensorRT fuses up to {INT8_MAX_TOKENS} in INT8"
    return ""


def int8_group_obstacle(
    spec: AttentionSpec, group: HeadGroup, height: int | None, width: int | None
) -> str:
    """Say what keeps a head group of an attention node from being fused in INT8.

    Args:
        spec: The node's, in its INT8 form.
        group: One of its groups.
        height: Of the map in tokens; `None` if it is not known before the graph runs.
        width: Likewise.

    Returns:
        The reason; empty if nothing stands against it.
    """
    if not (spec.qkv_quant_scale and spec.out_quant_scale):
        return NOT_INT8
    if group.mode == "neighborhood":
        return QUERIES_APART
    if spec.qk_mode == "cosine":
        return "queries scaled by a factor per head have no common INT8 scale"
    rows, cols = (
        window or axis for window, axis in zip(group.window_size, (height, width), strict=True)
    )
    tokens = None if rows is None or cols is None else rows * cols
    return int8_mha_obstacle(spec.head_dim, tokens, tokens)
