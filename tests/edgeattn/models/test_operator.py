"""The torch operator: against the oracle, and as a citizen of autograd, compile and export."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from edgeattn.errors import SpecError
from edgeattn.models.operator import multi_scale_window_attention
from edgeattn.spec import AttentionSpec, HeadGroup
from tests import framework_attention, oracle
from tests.cases import NAMED_CASES, Case, cases
from tests.tolerances import assert_close, assert_close_in_half

OP = torch.ops.edgeattn.multi_scale_window_attention.default

# One per way through the code, small enough to differentiate numerically.
DIFFERENTIABLE = {
    "block": Case(
        AttentionSpec(2, 2, (HeadGroup(2, (2, 3), (1, 1)),), has_bias=True, pad_mode="bias_kv"),
        3,
        4,
    ),
    "block_masked": Case(AttentionSpec(2, 1, (HeadGroup(1, 2, 1),), qkv_layout="H3D"), 3, 3, 2),
    "grid": Case(
        AttentionSpec(1, 2, (HeadGroup(2, 2, mode="grid"),), has_bias=True, pad_mode="bias_kv"),
        3,
        3,
    ),
    "neighborhood": Case(
        AttentionSpec(2, 2, (HeadGroup(2, (2, 3), mode="neighborhood"),), has_bias=True), 3, 4
    ),
    "causal": Case(
        AttentionSpec(2, 1, (HeadGroup(1, (1, 3), mode="neighborhood", causal=True),)), 1, 5
    ),
    "cosine": Case(
        AttentionSpec(
            3,
            2,
            (HeadGroup(2, 2, 1), HeadGroup(1, 3, mode="neighborhood")),
            has_bias=True,
            pad_mode="bias_kv",
            mask_value=-2.0,
            qk_mode="cosine",
        ),
        3,
        3,
        largest_logit_scale=3.0,
    ),
    "cosine_masked": Case(
        AttentionSpec(2, 1, (HeadGroup(1, 2, 1),), qk_mode="cosine"), 3, 3, largest_logit_scale=3.0
    ),
}


def _torch_tensors(case: Case, dtype: torch.dtype, *, grad: bool = False) -> dict[str, Tensor]:
    tensors = {name: torch.from_numpy(t).to(dtype) for name, t in case.tensors().items()}
    return {name: t.requires_grad_(grad) for name, t in tensors.items()}


def _run(spec: AttentionSpec, tensors: dict[str, Tensor]) -> Tensor:
    return multi_scale_window_attention(spec=spec, **tensors)


def _op_arguments(
    case: Case, *, grad: bool = False
) -> tuple[tuple[Tensor | None, ...], dict[str, Any]]:
    tensors = _torch_tensors(case, torch.float64, grad=grad)
    names = ("qkv", "bias_table", "pad_kv", "logit_scale")
    return tuple(tensors.get(name) for name in names), case.spec.to_attributes()


class Attention(torch.nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.spec = case.spec
        tensors = _torch_tensors(case, torch.float32)
        self.qkv = tensors.pop("qkv")
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, qkv: Tensor) -> Tensor:
        return multi_scale_window_attention(qkv, self.spec, **dict(self.named_buffers()))


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES)
def test_operator_equals_the_oracle(case: Case, dtype: str) -> None:
    tensors = case.tensors(dtype)
    expected = oracle.attention(case.spec, **tensors)
    out = _run(case.spec, {name: torch.from_numpy(t) for name, t in tensors.items()})
    assert out.dtype == getattr(torch, dtype)
    assert_close(out.numpy(), expected, "attention", dtype)


@settings(max_examples=300)
@given(cases())
def test_operator_equals_the_oracle_on_drawn_cases(case: Case) -> None:
    tensors = case.tensors()
    out = _run(case.spec, {name: torch.from_numpy(t) for name, t in tensors.items()})
    assert_close(out.numpy(), oracle.attention(case.spec, **tensors), "attention", "float64")


@pytest.mark.slow
@settings(max_examples=10_000)
@given(cases())
def test_operator_equals_the_oracle_on_thousands_of_drawn_cases(case: Case) -> None:
    tensors = case.tensors("float32")
    out = _run(case.spec, {name: torch.from_numpy(t) for name, t in tensors.items()})
    assert_close(out.numpy(), oracle.attention(case.spec, **tensors), "attention", "float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES)
def test_half_precision_is_not_worse_than_twice_torchs_own(case: Case, dtype: str) -> None:
    # As in a model: the projection and its bias in half, the table and the scale in float32.
    tensors = _torch_tensors(case, torch.float32)
    tensors["qkv"] = tensors["qkv"].to(getattr(torch, dtype))
    rounded = {name: t.double().numpy() for name, t in tensors.items()}
    out = _run(case.spec, tensors)
    assert out.dtype == tensors["qkv"].dtype
    assert_close_in_half(
        out.double().numpy(),
        oracle.attention(case.spec, **rounded),
        framework_attention.attention(case.spec, **tensors).double().numpy(),
        dtype,
    )


def test_the_baseline_for_half_precision_is_the_same_attention() -> None:
    for case in NAMED_CASES.values():
        out = framework_attention.attention(case.spec, **_torch_tensors(case, torch.float64))
        expected = oracle.attention(case.spec, **case.tensors())
        assert_close(out.numpy(), expected, "attention", "float64")


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    case = NAMED_CASES["many_images"]
    tensors = _torch_tensors(case, torch.float64)
    out = _run(case.spec, tensors)
    for image in range(case.batch):
        alone = _run(case.spec, {**tensors, "qkv": tensors["qkv"][image : image + 1]})
        torch.testing.assert_close(alone, out[image : image + 1], rtol=0, atol=1e-14)


def test_tokens_of_other_windows_have_no_influence() -> None:
    case = NAMED_CASES["map_a_multiple_of_the_window"]
    spec = AttentionSpec(4, 2, (HeadGroup(2, 4),))
    qkv = torch.from_numpy(case.tensors()["qkv"])
    spoiled = qkv.clone()
    spoiled[:, 4:, 4:] = torch.nan
    out = multi_scale_window_attention(spoiled, spec)
    clean = multi_scale_window_attention(qkv, spec)
    assert torch.equal(out[:, :4], clean[:, :4])
    assert torch.equal(out[:, :, :4], clean[:, :, :4])


def test_an_empty_batch_gives_an_empty_output_and_zero_gradients() -> None:
    case = DIFFERENTIABLE["cosine"]
    tensors = _torch_tensors(case, torch.float32)
    tensors["qkv"] = tensors["qkv"][:0]
    tensors = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    out = _run(case.spec, tensors)
    assert out.shape == (0, case.height, case.width, case.spec.out_channels)
    out.sum().backward()
    assert all(t.grad is not None and not t.grad.any() for t in tensors.values())


def test_strided_inputs_are_read_as_they_lie() -> None:
    case = NAMED_CASES["eight_groups_of_all_modes"]
    tensors = _torch_tensors(case, torch.float64)
    strided = {name: torch.stack([t, t], dim=-1)[..., 0] for name, t in tensors.items()}
    strided["qkv"] = tensors["qkv"].transpose(1, 2).contiguous().transpose(1, 2)
    assert not any(t.is_contiguous() for t in strided.values())
    assert torch.equal(_run(case.spec, strided), _run(case.spec, tensors))


# --- autograd -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_gradients_of_all_tensors_are_those_of_finite_differences(case: Case) -> None:
    tensors = _torch_tensors(case, torch.float64, grad=True)

    def attend(*values: Tensor) -> Tensor:
        return _run(case.spec, dict(zip(tensors, values, strict=True)))

    assert torch.autograd.gradcheck(attend, tuple(tensors.values()))


def test_gradients_reach_only_the_tensors_that_ask_for_them() -> None:
    case = DIFFERENTIABLE["cosine"]
    tensors = _torch_tensors(case, torch.float64)
    tensors["pad_kv"].requires_grad_()
    _run(case.spec, tensors).sum().backward()
    assert [name for name, t in tensors.items() if t.grad is not None] == ["pad_kv"]


def test_gradients_have_the_types_of_their_tensors() -> None:
    case = DIFFERENTIABLE["block"]
    tensors = _torch_tensors(case, torch.float32)
    tensors["qkv"] = tensors["qkv"].half()
    tensors = {name: t.requires_grad_() for name, t in tensors.items()}
    _run(case.spec, tensors).sum().backward()
    assert {name: t.grad.dtype for name, t in tensors.items()} == {
        "qkv": torch.float16,
        "bias_table": torch.float32,
        "pad_kv": torch.float32,
    }


def test_autocast_does_not_lower_the_precision_inside() -> None:
    case = NAMED_CASES["three_scales_split_over_the_heads"]
    plain = _torch_tensors(case, torch.float32, grad=True)
    _run(case.spec, plain).square().sum().backward()
    cast = _torch_tensors(case, torch.float32, grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _run(case.spec, cast).square().sum().backward()
    for name in plain:
        torch.testing.assert_close(cast[name].grad, plain[name].grad)


def test_a_model_can_be_trained_after_it_has_run_in_inference_mode() -> None:
    # Index tables are kept between calls, and inference mode taints the tensors it makes.
    spec = AttentionSpec(2, 1, (HeadGroup(1, (3, 2), 1), HeadGroup(1, 3, mode="neighborhood")))
    qkv = torch.randn(1, 13, 17, spec.qkv_channels, requires_grad=True)
    with torch.inference_mode():
        multi_scale_window_attention(qkv, spec)
    multi_scale_window_attention(qkv, spec).sum().backward()
    assert qkv.grad is not None


# --- torch.library, compile, export ---------------------------------------------------------------

OPCHECK_CASES = {
    **DIFFERENTIABLE,
    **{
        name: NAMED_CASES[name]
        for name in (
            "one_token",
            "window_larger_than_the_map_masked",
            "eight_groups_of_all_modes",
            "many_images",
        )
    },
}


@pytest.mark.parametrize("case", OPCHECK_CASES.values(), ids=OPCHECK_CASES)
def test_torch_accepts_the_operators_registration(case: Case) -> None:
    arguments, attributes = _op_arguments(case, grad=True)
    torch.library.opcheck(OP, arguments, attributes)


@pytest.mark.parametrize("case", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_the_fake_operator_gives_shape_type_and_strides_of_the_real_one(case: Case) -> None:
    arguments, attributes = _op_arguments(case)
    real = OP(*arguments, **attributes)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = OP(*(a if a is None else mode.from_tensor(a) for a in arguments), **attributes)
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("name", ["cosine", "causal"])
def test_a_compiled_call_equals_an_eager_one(name: str) -> None:
    case = DIFFERENTIABLE[name]
    eager = _torch_tensors(case, torch.float64, grad=True)
    compiled = _torch_tensors(case, torch.float64, grad=True)
    expected = _run(case.spec, eager)
    torch.compiler.reset()
    out = torch.compile(_run, fullgraph=True, backend="aot_eager")(case.spec, compiled)
    assert torch.equal(out, expected)
    expected.square().sum().backward()
    out.square().sum().backward()
    for tensor in eager:
        assert torch.equal(compiled[tensor].grad, eager[tensor].grad)


@pytest.mark.parametrize("name", ["eight_groups_of_all_modes", "cosine_padded"])
def test_an_exported_program_holds_the_operator_at_any_size(name: str) -> None:
    case = NAMED_CASES[name]
    module = Attention(case).eval()
    sizes = {0: "batch", 1: "height", 2: "width"}
    dynamic = {axis: torch.export.Dim(size, max=64) for axis, size in sizes.items()}
    sample = torch.randn(2, 5, 6, case.spec.qkv_channels)
    program = torch.export.export(module, (sample,), dynamic_shapes=({**dynamic, 3: None},))
    nodes = [node for node in program.graph.nodes if node.target is OP]
    assert len(nodes) == 1
    for batch, height, width in ((1, 1, 1), (3, 4, 9), (2, 13, 7)):
        qkv = torch.randn(batch, height, width, case.spec.qkv_channels)
        torch.testing.assert_close(program.module()(qkv), module(qkv))


def test_an_exported_sequence_keeps_one_row_and_any_length() -> None:
    case = NAMED_CASES["causal"]
    module = Attention(case).eval()
    shapes = ({0: None, 1: None, 2: torch.export.Dim("length", max=64), 3: None},)
    program = torch.export.export(module, (module.qkv,), dynamic_shapes=shapes)
    qkv = torch.randn(1, 1, 21, case.spec.qkv_channels)
    torch.testing.assert_close(program.module()(qkv), module(qkv))


# --- errors ---------------------------------------------------------------------------------------

SPEC = AttentionSpec(4, 2, (HeadGroup(2, 3),), has_bias=True, pad_mode="bias_kv")


def _valid() -> dict[str, Any]:
    return _torch_tensors(Case(SPEC, 5, 6), torch.float32)


def _refused(message: str, spec: AttentionSpec = SPEC, **changes: Any) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        _run(spec, {**_valid(), **changes})


def test_a_tensor_of_another_rank_is_refused() -> None:
    _refused(
        "qkv has the shape [5, 6, 24]; expected [B, H, W, 24] for 2 heads of 4 channels",
        qkv=torch.zeros(5, 6, 24),
    )


def test_another_number_of_channels_is_refused() -> None:
    _refused("qkv has the shape [1, 5, 6, 8]; expected [B, H, W, 24]", qkv=torch.zeros(1, 5, 6, 8))


@pytest.mark.parametrize("size", [(0, 6), (5, 0)])
def test_a_map_without_a_token_is_refused(size: tuple[int, int]) -> None:
    _refused("expected at least one token", qkv=torch.zeros(1, *size, 24))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_a_type_that_is_not_floating_point_is_refused(dtype: torch.dtype) -> None:
    _refused(
        f"qkv is of type {dtype}; expected a floating point type",
        qkv=torch.zeros(1, 5, 6, 24, dtype=dtype),
    )


@pytest.mark.parametrize("name", ["qkv_quant_scale", "out_quant_scale"])
def test_the_int8_form_is_refused(name: str) -> None:
    spec = AttentionSpec(4, 2, (HeadGroup(2, 3),), **{name: 0.1})
    with pytest.raises(SpecError, match="has INT8 quantization scales") as caught:
        multi_scale_window_attention(torch.zeros(1, 5, 6, 24), spec)
    assert caught.value.hint == "leave qkv_quant_scale and out_quant_scale at 0"


@pytest.mark.parametrize("name", ["bias_table", "pad_kv"])
def test_a_missing_tensor_is_named(name: str) -> None:
    _refused(f"the attention needs a {name} with these settings", **{name: None})


def test_a_missing_logit_scale_is_named() -> None:
    spec = AttentionSpec(4, 2, (HeadGroup(2, 3),), qk_mode="cosine")
    with pytest.raises(SpecError, match="the attention needs a logit_scale with these settings"):
        multi_scale_window_attention(torch.zeros(1, 5, 6, 24), spec)


@pytest.mark.parametrize("name", ["bias_table", "pad_kv", "logit_scale"])
def test_a_superfluous_tensor_is_named(name: str) -> None:
    spec = AttentionSpec(4, 2, (HeadGroup(2, 3),))
    with pytest.raises(SpecError, match=f"does not take a {name} with these settings"):
        multi_scale_window_attention(torch.zeros(1, 5, 6, 24), spec, **{name: torch.zeros(1)})


@pytest.mark.parametrize(("name", "size"), [("bias_table", 50), ("pad_kv", 16)])
def test_a_tensor_of_another_length_is_refused(name: str, size: int) -> None:
    _refused(f"{name} has the shape [7]; expected [{size}]", **{name: torch.zeros(7)})


def test_a_causal_group_on_a_map_is_refused() -> None:
    spec = AttentionSpec(4, 2, (HeadGroup(2, (1, 3), mode="neighborhood", causal=True),))
    with pytest.raises(SpecError, match=r"works on sequences \(H = 1\), got H = 5"):
        multi_scale_window_attention(torch.zeros(1, 5, 6, 24), spec)


def test_both_infinite_and_finite_masks_act() -> None:
    qkv = torch.from_numpy(NAMED_CASES["finite_mask"].tensors()["qkv"])
    outputs = [
        multi_scale_window_attention(
            qkv, AttentionSpec(4, 2, (HeadGroup(2, 4, 2),), mask_value=value)
        )
        for value in (-np.inf, -1.5, -1e-9)
    ]
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1], outputs[2])
