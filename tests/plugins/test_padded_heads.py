"""Heads that the kernels refuse, padded as the pass pads them, through the kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from edgeattn.errors import SpecError
from edgeattn.graph.op import attention_nodes, spec_of_node
from edgeattn.graph.passes.pad_heads import pad_heads
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.cases import Case
from tests.edgeattn.graph.passes.test_decompose import model_of
from tests.int8_oracle import quantized_case
from tests.plugins.kernel_device import Device
from tests.plugins.kernel_judge import (
    exact_attention,
    half_attention,
    int8_ratio,
    rounded_tensors,
)
from tests.tolerances import assert_close_in_half

OVERLAPPING = (HeadGroup(2, 4, 2, 1), HeadGroup(2, 3))
CASES = {
    "SwinIR's 30 channels": Case(AttentionSpec(30, 2, (HeadGroup(2, 8, 4),), has_bias=True), 16, 8),
    "its 10, in cosine attention with padded tokens": Case(
        AttentionSpec(10, 3, OVERLAPPING, pad_mode="bias_kv", qk_mode="cosine"), 7, 9
    ),
    "3 channels, packed by head": Case(AttentionSpec(3, 3, OVERLAPPING, qkv_layout="H3D"), 6, 5),
}

padded_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def padded_spec(case: Case) -> AttentionSpec:
    """Have the pass pad a node's heads."""
    tensors = rounded_tensors(case, "float16")
    model = model_of(case.spec, tensors, dynamic=False)
    model.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(
        tensors["qkv"].dtype
    )
    (node,) = attention_nodes(pad_heads(model).model)
    return spec_of_node(node)


def with_zeros(spec: AttentionSpec, tensor: np.ndarray, head_dim: int) -> np.ndarray:
    """Write zeros behind each head of a tensor whose last axis holds heads."""
    heads = tensor.reshape(*tensor.shape[:-1], -1, spec.head_dim)
    padded = np.zeros((*heads.shape[:-1], head_dim), tensor.dtype)
    padded[..., : spec.head_dim] = heads
    return padded.reshape(*tensor.shape[:-1], -1)


def run(
    device: Device, case: Case, spec: AttentionSpec, tensors: dict[str, np.ndarray], out_type: str
) -> np.ndarray:
    """Run padded tensors; zeros are checked to come out of zeros, and dropped."""
    wide = {
        name: with_zeros(case.spec, tensor, spec.head_dim) if name in ("qkv", "pad_kv") else tensor
        for name, tensor in tensors.items()
    }
    out = device.run(spec, wide, out_type)
    heads = out.reshape(*out.shape[:-1], -1, spec.head_dim)
    assert not heads[..., case.spec.head_dim :].any()
    return heads[..., : case.spec.head_dim].reshape(*out.shape[:-1], -1)


@padded_cases
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_padded_heads_compute_what_unpadded_ones_would(
    device: Device, case: Case, half: str
) -> None:
    with pytest.raises(SpecError, match="expected a multiple of 8"):
        device.library.check(case.spec, half, half)
    tensors = rounded_tensors(case, half)
    found = run(device, case, padded_spec(case), tensors, half).astype(np.float64)
    exact = exact_attention(case.spec, **{n: t.astype(np.float64) for n, t in tensors.items()})
    assert_close_in_half(found, exact, half_attention(case.spec, tensors), half)


@padded_cases
def test_padded_heads_in_int8_give_the_steps_of_unpadded_ones(device: Device, case: Case) -> None:
    quantized = quantized_case(case, attend=exact_attention)
    scales = ("qkv_quant_scale", "out_quant_scale")
    spec = replace(padded_spec(case), **{name: getattr(quantized.spec, name) for name in scales})
    found = run(device, case, spec, quantized.tensors, "int8")
    assert int8_ratio(found, quantized) <= 1
