"""The operator `edgeattn::multi_scale_window_attention` in PyTorch.

One call is the attention of all heads at all window sizes, straight from the packed projection.
On a GPU it runs in the project's kernels where they are built (`fused.py`); everywhere else, and
for the gradient, in the reference implementation below: it gathers the windows by the index rule
(`window.py`) and computes in float32 (float64 for float64 input). The exporter turns a call into
one ONNX node.

References:
    The index rule and the inputs: `docs/operator.md`. Swin (arXiv:2103.14030), Swin V2
    (arXiv:2111.09883, cosine attention), MaxViT (arXiv:2204.01697, grid), NAT (arXiv:2204.07143,
    neighborhood), DW-ViT (arXiv:2203.12856, head groups).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeattn.errors import SpecError
from edgeattn.models.fused import fused_attention
from edgeattn.models.window import PAD, map_neighbors, map_windows
from edgeattn.spec import ATTRIBUTE_KINDS, AttentionSpec, HeadGroup

# Index tables depend on the map size and the group alone; a model meets a handful of each.
_windows = functools.lru_cache(maxsize=64)(map_windows)
_neighbors = functools.lru_cache(maxsize=64)(map_neighbors)

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def multi_scale_window_attention(
    qkv: Tensor,
    spec: AttentionSpec,
    bias_table: Tensor | None = None,
    pad_kv: Tensor | None = None,
    logit_scale: Tensor | None = None,
) -> Tensor:
    """Attend within windows of several sizes, straight from the packed projection.

    Per head: `softmax(softmax_scale * q·k + bias + mask) · v` over the tokens of the query's
    window.

    Args:
        qkv: `[B, H, W, 3 * qkv_heads * head_dim]`, float16, bfloat16, float32 or float64.
        spec: What to compute; says which of the other tensors are needed.
        bias_table: `[spec.bias_entries]`: per group `[num_heads, (2wh-1)*(2ww-1)]`, flat, indexed
            by query minus key.
        pad_kv: `[2 * qkv_heads * head_dim]`: key, then value of a padded token.
        logit_scale: `[qkv_heads]`: factor of the cosine, already clamped and exponentiated.

    Returns:
        `[B, H, W, spec.out_channels]` of the type of `qkv`: the groups' heads in their order.

    Raises:
        SpecError: If a tensor is missing, superfluous or of the wrong shape or type, or if the
            spec is of the INT8 form, which exists in lowered graphs only.
    """
    tensors = {"bias_table": bias_table, "pad_kv": pad_kv, "logit_scale": logit_scale}
    _check_tensors(qkv, tensors, spec)
    return torch.ops.edgeattn.multi_scale_window_attention(
        qkv, bias_table, pad_kv, logit_scale, **spec.to_attributes()
    )


def _check_tensors(qkv: Tensor, tensors: dict[str, Tensor | None], spec: AttentionSpec) -> None:
    if qkv.ndim != 4 or qkv.shape[3] != spec.qkv_channels:
        raise SpecError(
            f"qkv has the shape {list(qkv.shape)}; expected [B, H, W, {spec.qkv_channels}] for "
            f"{spec.qkv_heads} heads of {spec.head_dim} channels"
        )
    if qkv.shape[1] == 0 or qkv.shape[2] == 0:
        raise SpecError(f"qkv has the shape {list(qkv.shape)}; expected at least one token")
    if qkv.dtype not in _DTYPES:
        raise SpecError(f"qkv is of type {qkv.dtype}; expected a floating point type")
    if spec.qkv_quant_scale or spec.out_quant_scale:
        raise SpecError(
            "the attention has INT8 quantization scales; in PyTorch it takes floating point only",
            "leave qkv_quant_scale and out_quant_scale at 0",
        )
    if any(group.causal for group in spec.head_groups) and qkv.shape[1] != 1:
        raise SpecError(f"a causal head group works on sequences (H = 1), got H = {qkv.shape[1]}")
    expected = spec.input_shapes()
    for name, tensor in tensors.items():
        if (tensor is not None) != (name in expected):
            state = "needs" if name in expected else "does not take"
            raise SpecError(f"the attention {state} a {name} with these settings")
        if tensor is not None and tuple(tensor.shape) != expected[name]:
            raise SpecError(
                f"{name} has the shape {list(tensor.shape)}; expected {list(expected[name])}"
            )


_ATTRIBUTE_SCHEMA = ", ".join(f"{kind} {name}" for name, kind in ATTRIBUTE_KINDS.items())
_INPUT_SCHEMA = "Tensor qkv, Tensor? bias_table, Tensor? pad_kv, Tensor? logit_scale"


def _spec_of(attributes: Sequence[Any]) -> AttentionSpec:
    return _spec_of_values(tuple(tuple(v) if isinstance(v, list) else v for v in attributes))


# Validating a spec takes tens of microseconds, which a call on a GPU cannot spare.
@functools.lru_cache(maxsize=256)
def _spec_of_values(values: tuple[Any, ...]) -> AttentionSpec:
    return AttentionSpec.from_attributes(dict(zip(ATTRIBUTE_KINDS, values, strict=True)))


@torch.library.custom_op(
    "edgeattn::multi_scale_window_attention",
    mutates_args=(),
    schema=f"({_INPUT_SCHEMA}, {_ATTRIBUTE_SCHEMA}) -> Tensor",
)
def _attention(
    qkv: Tensor,
    bias_table: Tensor | None,
    pad_kv: Tensor | None,
    logit_scale: Tensor | None,
    *attributes: Any,
) -> Tensor:
    spec = _spec_of(attributes)
    out = fused_attention(spec, qkv, bias_table, pad_kv, logit_scale)
    if out is None:
        with _without_autocast(qkv):
            out = reference_attention(spec, qkv, bias_table, pad_kv, logit_scale)
    return out


@_attention.register_fake
def _(qkv: Tensor, bias_table: Any, pad_kv: Any, logit_scale: Any, *attributes: Any) -> Tensor:
    return qkv.new_empty((*qkv.shape[:3], _spec_of(attributes).out_channels))


@torch.library.custom_op(
    "edgeattn::multi_scale_window_attention_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {_INPUT_SCHEMA}, {_ATTRIBUTE_SCHEMA}) -> Tensor[]",
)
def _attention_backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    """Recompute the forward pass and differentiate it: one gradient per tensor that is there."""
    spec = _spec_of(inputs[4:])

    def forward(qkv: Tensor, *present: Tensor) -> Tensor:
        given = iter(present)
        bias_table, pad_kv, logit_scale = (None if t is None else next(given) for t in inputs[1:4])
        return reference_attention(spec, qkv, bias_table, pad_kv, logit_scale)

    with _without_autocast(grad):
        vjp = torch.func.vjp(forward, *_present(inputs))[1]
        return [g.contiguous() for g in vjp(grad)]


@_attention_backward.register_fake
def _(grad: Tensor, *inputs: Any) -> list[Tensor]:
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in _present(inputs)]


def _present(inputs: Sequence[Any]) -> list[Tensor]:
    return [t for t in inputs[:4] if t is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.attributes = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    grads = iter(
        torch.ops.edgeattn.multi_scale_window_attention_backward(grad, *tensors, *ctx.attributes)
    )
    of_tensors = (None if t is None else next(grads) for t in tensors)
    return (*of_tensors, *(None for _ in ctx.attributes))


_attention.register_autograd(_backward, setup_context=_setup_context)


def _without_autocast(tensor: Tensor) -> torch.autocast:
    """Keep a caller's autocast out: it would take the float32 products to half precision."""
    return torch.autocast(tensor.device.type, enabled=False)


def reference_attention(
    spec: AttentionSpec,
    qkv: Tensor,
    bias_table: Tensor | None = None,
    pad_kv: Tensor | None = None,
    logit_scale: Tensor | None = None,
) -> Tensor:
    """Evaluate the operator with PyTorch's own operators, on any device.

    Args:
        spec: What to compute.
        qkv: As in `multi_scale_window_attention`, like the other tensors; nothing is checked.
        bias_table: As there.
        pad_kv: As there.
        logit_scale: As there.

    Returns:
        `[B, H, W, spec.out_channels]` of the type of `qkv`, computed in float32, or in float64
        for float64.
    """
    batch, height, width, _ = qkv.shape
    compute_dtype = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    packed = qkv.to(compute_dtype)
    heads, dim = spec.qkv_heads, spec.head_dim
    if spec.qkv_layout == "3HD":
        packed = packed.reshape(batch, height * width, 3, heads, dim)
    else:
        packed = packed.reshape(batch, height * width, heads, 3, dim).transpose(2, 3)
    # Token `height * width` is the padded one, so that PAD (-1) indexes it.
    padded = packed.new_zeros(1, 1, 3, heads, dim)
    if pad_kv is not None:
        key_value = pad_kv.to(compute_dtype).view(1, 1, 2, heads, dim)
        padded = torch.cat([padded[:, :, :1], key_value], dim=2)
    packed = torch.cat([packed, padded.expand(batch, -1, -1, -1, -1)], dim=1)
    query, key, value = packed.permute(2, 0, 3, 1, 4)  # [B, Hd, H*W + 1, D] each
    if spec.qk_mode == "cosine":
        assert logit_scale is not None
        scale = logit_scale.to(compute_dtype).view(1, -1, 1, 1)
        query, key = F.normalize(query, dim=-1) * scale, F.normalize(key, dim=-1)
    else:
        query = query * spec.effective_softmax_scale
    outputs, bias_offset = [], 0
    for group in spec.head_groups:
        chosen = slice(group.head_offset, group.head_offset + group.num_heads)
        bias = None
        if bias_table is not None:
            bias = bias_table[bias_offset : bias_offset + group.bias_entries]
            bias = bias.to(compute_dtype).view(group.num_heads, -1)
            bias_offset += group.bias_entries
        attend = _attend_neighbors if group.mode == "neighborhood" else _attend_windows
        outputs.append(
            attend(
                query[:, chosen], key[:, chosen], value[:, chosen], bias, group, spec, height, width
            )
        )
    out = torch.cat(outputs, dim=1)  # [B, heads, H*W, D]
    out = out.transpose(1, 2).reshape(batch, height, width, spec.out_channels)
    # With one channel per head the reshape is a view with the strides of the transpose.
    return out.contiguous().to(qkv.dtype)


def _attend_windows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    group: HeadGroup,
    spec: AttentionSpec,
    height: int,
    width: int,
) -> Tensor:
    windows = _windows(height, width, group, spec.shift_pad_order)
    num_windows, tokens = windows.source.shape
    source = windows.source.to(query.device).flatten()
    query, key, value = (
        t[:, :, source].unflatten(2, (num_windows, tokens)) for t in (query, key, value)
    )  # [B, heads, nW, N, D]
    mask = query.new_zeros(1, num_windows, tokens, tokens)
    if bool((windows.label != windows.label[:, :1]).any()):
        differ = windows.label[:, :, None] != windows.label[:, None, :]
        mask = mask.masked_fill(differ.to(query.device), spec.mask_value)
    pad = windows.source == PAD
    if spec.pad_mode == "mask" and bool(pad.any()):
        # The output of a padded query is never read; left unmasked it stays finite.
        hidden = (pad[:, None, :] & ~pad[:, :, None]).to(query.device)
        mask = mask.masked_fill(hidden, -torch.inf)
    if bias is not None:
        mask = mask + bias[:, windows.bias_index.to(query.device)][:, None]
    out = F.scaled_dot_product_attention(query, key, value, mask, scale=1.0)
    return out.flatten(2, 3)[:, :, windows.place.to(query.device)]


def _attend_neighbors(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    group: HeadGroup,
    spec: AttentionSpec,
    height: int,
    width: int,
) -> Tensor:
    neighbors = _neighbors(height, width, group)
    source = neighbors.source.to(query.device)
    keys, values = key[:, :, source], value[:, :, source]  # [B, heads, H*W, K, D]
    logits = torch.einsum("bhtd,bhtkd->bhtk", query[:, :, :-1], keys)
    if bias is not None:
        logits = logits + bias[:, neighbors.bias_index.to(query.device)]
    weights = logits.masked_fill(source == PAD, -torch.inf).softmax(dim=-1)
    return torch.einsum("bhtk,bhtkd->bhtd", weights, values)
