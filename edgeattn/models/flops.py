"""The cost of the attention operator, for torch's FLOP counter.

Importing this module registers the formula. A multiply-accumulate is two operations, as in the
counter's other formulas.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from edgeattn.models import operator as _operator  # noqa: F401  # defines the operator
from edgeattn.models.attention_flops import attention_products
from edgeattn.spec import ATTRIBUTE_KINDS, AttentionSpec


@register_flop_formula(torch.ops.edgeattn.multi_scale_window_attention)
def attention_flops(qkv_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Count the operations of one call of the operator.

    Args:
        qkv_shape: `[B, H, W, 3 * qkv_heads * head_dim]`.
        *args: The operator's other arguments by position: three tensors, then attributes.
        out_shape: Shape of the output; follows from the others.
        **kwargs: The operator's arguments by name.
    """
    attributes = dict(zip(ATTRIBUTE_KINDS, args[3:], strict=False))
    attributes |= {name: value for name, value in kwargs.items() if name in ATTRIBUTE_KINDS}
    spec = AttentionSpec.from_attributes(attributes)
    batch, height, width, _ = qkv_shape
    return attention_products(spec, int(batch), int(height), int(width))
