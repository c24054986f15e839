"""The kernels against exact attention: every case, every type, every variant.

Each test runs in the CPU emulator, where any broken rule of the hardware fails it, and on a GPU
where there is one (`--require gpu`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from edgeattn.spec import AttentionSpec, HeadGroup
from tests.cases import NAMED_CASES, Case
from tests.int8_oracle import quantized_case, to_steps
from tests.plugins.kernel_cases import (
    HEAD_DIMS,
    KERNEL_CASES,
    case_of,
    is_slow,
    kernel_cases,
    with_head_dim,
)
from tests.plugins.kernel_device import Device
from tests.plugins.kernel_judge import FORMS, exact_attention, judge, rounded_tensors

Record = Callable[[str, object], None]

FIGURES = {
    "float32": "largest error in float32, over the tolerance",
    "float16": "largest error in float16, over torch's own",
    "bfloat16": "largest error in bfloat16, over torch's own",
    "int8": "largest error in int8, over what rounding allows",
    "int8_float16": "largest error from int8 to float16, over what rounding allows",
}

ALL_CASES = [
    pytest.param(name, form, marks=pytest.mark.slow if is_slow(name, FORMS[form].in_type) else ())
    for name in (*NAMED_CASES, *KERNEL_CASES)
    for form in FORMS
]


def seed_of(name: str) -> int:
    """Give each case a thread order of its own, the same on every run."""
    return sum(name.encode()) % 1000


@pytest.mark.parametrize(("name", "form"), ALL_CASES)
def test_every_variant_computes_exact_attention(
    device: Device, name: str, form: str, record_property: Record
) -> None:
    case = case_of(name, FORMS[form].in_type)
    record_property(FIGURES[form], judge(device, case, FORMS[form], seed_of(name)))


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("form", [form for form in FORMS if form != "float32"])
@pytest.mark.parametrize("name", NAMED_CASES)
def test_every_head_dimension_computes_exact_attention(
    device: Device, name: str, form: str, head_dim: int, record_property: Record
) -> None:
    case = with_head_dim(NAMED_CASES[name], head_dim)
    record_property(FIGURES[form], judge(device, case, FORMS[form]))


@pytest.mark.parametrize("head_dim", range(8, 129, 8))
@pytest.mark.parametrize("form", [form for form in FORMS if form != "float32"])
def test_every_multiple_of_eight_is_a_head_dimension(
    device: Device, form: str, head_dim: int, record_property: Record
) -> None:
    group = HeadGroup(3, (3, 7), (1, 3))
    case = Case(AttentionSpec(head_dim, 3, (group,), has_bias=True, pad_mode="bias_kv"), 5, 8)
    record_property(FIGURES[form], judge(device, case, FORMS[form]))


@pytest.mark.parametrize("head_dim", [1, 2, 3, 5, 31, 33, 48, 100, 127, 255, 256])
def test_float32_takes_every_head_dimension(device: Device, head_dim: int) -> None:
    group = HeadGroup(2, (3, 4), (1, 2))
    case = Case(AttentionSpec(head_dim, 2, (group,), has_bias=True, pad_mode="bias_kv"), 4, 7)
    judge(device, case, FORMS["float32"])


# --- drawn cases ----------------------------------------------------------------------------------


def _judge_drawn(device: Device, form: str, examples: int, **sizes: int) -> None:
    @settings(max_examples=examples)
    @given(case=kernel_cases(FORMS[form].in_type, **sizes))
    def judge_drawn(case: Case) -> None:
        judge(device, case, FORMS[form], seed=case.height + 10 * case.width)

    judge_drawn()


@pytest.mark.parametrize("form", FORMS)
def test_drawn_cases_compute_exact_attention(device: Device, form: str) -> None:
    _judge_drawn(device, form, 20)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_many_drawn_cases_compute_exact_attention(device: Device, form: str) -> None:
    _judge_drawn(device, form, 400)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_many_larger_drawn_cases_compute_exact_attention(device: Device, form: str) -> None:
    _judge_drawn(device, form, 80, max_window=18, max_size=26)


# --- the same bits --------------------------------------------------------------------------------

ORDER_CASES = (
    "eight_groups_of_all_modes",
    "odd_map_bias_kv_roll_then_pad",
    "many_small_windows",
    "more_keys_than_one_pass_holds",
    "neighborhood_dilated_by_two_and_three",
    "cosine_padded",
)


def _inputs(case: Case, form: str) -> tuple[AttentionSpec, dict[str, np.ndarray]]:
    if FORMS[form].in_type == "int8":
        quantized = quantized_case(case, attend=exact_attention)
        return quantized.spec, quantized.tensors
    return case.spec, rounded_tensors(case, FORMS[form].in_type)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        (name, form)
        for name in ORDER_CASES
        for form in ("float32", "float16", "int8")
        if not is_slow(name, form)
    ],
)
def test_the_order_of_threads_changes_no_bit(device: Device, name: str, form: str) -> None:
    spec, tensors = _inputs(case_of(name, FORMS[form].in_type), form)
    first, *others = (
        device.run(spec, tensors, FORMS[form].out_type, seed=seed) for seed in (0, 1, 2**63 + 5)
    )
    for other in others:
        assert other.tobytes() == first.tobytes()


@pytest.mark.parametrize("form", ["float32", "float16", "int8"])
def test_an_image_does_not_depend_on_the_others_of_its_batch(device: Device, form: str) -> None:
    case = case_of("many_images", FORMS[form].in_type)
    spec, tensors = _inputs(case, form)
    out = device.run(spec, tensors, FORMS[form].out_type)
    for image in range(case.batch):
        alone = {**tensors, "qkv": tensors["qkv"][image : image + 1]}
        result = device.run(spec, alone, FORMS[form].out_type)
        assert result.tobytes() == out[image : image + 1].tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_the_librarys_own_choice_is_the_first_variant(device: Device, form: str) -> None:
    case = case_of("window_8_dim_32", FORMS[form].in_type)
    spec, tensors = _inputs(case, form)
    out_type = FORMS[form].out_type
    size = (case.batch, case.height, case.width)
    first = device.library.variants(spec, *FORMS[form], size)[0]
    chosen, named = (device.run(spec, tensors, out_type, variant) for variant in (0, first))
    assert chosen.tobytes() == named.tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_without_an_image_nothing_is_done(device: Device, form: str) -> None:
    case = case_of("window_7_dim_32", FORMS[form].in_type)
    spec, tensors = _inputs(case, form)
    tensors["qkv"] = tensors["qkv"][:0]
    assert device.run(spec, tensors, FORMS[form].out_type).shape == (0, 8, 10, 96)


# --- numbers at the edge --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float32", "float16", "bfloat16", "int8"])
def test_a_query_or_key_of_zeros_has_no_direction_and_no_nan(device: Device, form: str) -> None:
    case = case_of("cosine_padded", FORMS[form].in_type)
    spec, tensors = _inputs(case, form)
    spec = replace(spec, has_bias=False)
    tensors = {name: t for name, t in tensors.items() if name != "bias_table"}
    tensors["qkv"] = tensors["qkv"].copy()
    query = tensors["qkv"][..., : spec.qkv_heads * spec.head_dim]
    query[:] = 0
    out = device.run(spec, tensors, FORMS[form].out_type).astype(np.float64)
    # Every logit is 0: each output is the mean of its window's values.
    real = {name: t.astype(np.float64) for name, t in tensors.items()}
    if form == "int8":
        real["qkv"] *= spec.qkv_quant_scale
        real["pad_kv"] = spec.qkv_quant_scale * to_steps(real["pad_kv"], spec.qkv_quant_scale)
        out *= spec.out_quant_scale
    exact = exact_attention(replace(spec, qkv_quant_scale=0.0, out_quant_scale=0.0), **real)
    step = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2, "int8": spec.out_quant_scale}
    np.testing.assert_allclose(out, exact, atol=step[form])


@pytest.mark.parametrize("form", ["float16", "bfloat16"])
def test_values_next_to_the_largest_number_do_not_overflow(device: Device, form: str) -> None:
    spec = AttentionSpec(16, 1, (HeadGroup(1, (4, 4)),))
    tensors = rounded_tensors(Case(spec, 4, 8), form)
    value = tensors["qkv"][..., 32:]
    largest = 60000.0 if form == "float16" else 1e37
    value[...] = largest
    out = device.run(spec, tensors, form).astype(np.float64)
    np.testing.assert_allclose(out, float(value[0, 0, 0, 0]), rtol=2.0**-7)


# --- INT8, exactly --------------------------------------------------------------------------------


def _uniform_int8(
    values: np.ndarray, out_scale: float
) -> tuple[AttentionSpec, dict[str, np.ndarray]]:
    """Make a window of equal weights: the output is the mean of `[N, D]` values, exactly."""
    tokens, dim = values.shape
    group = HeadGroup(1, (1, tokens))
    spec = AttentionSpec(dim, 1, (group,), qkv_quant_scale=1.0, out_quant_scale=out_scale)
    qkv = np.zeros((1, 1, tokens, 3, dim), np.int8)
    qkv[0, 0, :, 1] = np.arange(tokens)[:, None]
    qkv[0, 0, :, 2] = values
    return spec, {"qkv": qkv.reshape(1, 1, tokens, 3 * dim)}


@pytest.mark.parametrize("tokens", [2, 16, 64])
def test_int8_rounds_halves_to_the_even_step(device: Device, tokens: int) -> None:
    # Half of the tokens hold n, half n + 1: the mean is n + 1/2.
    lower = np.array([-128, -127, -4, -3, -2, -1, 0, 1, 2, 3, 4, 125, 126, -64, 63, 8])
    values = np.repeat(np.stack([lower, lower + 1]), tokens // 2, axis=0)
    spec, tensors = _uniform_int8(values, 1.0)
    out = device.run(spec, tensors, "int8")
    np.testing.assert_array_equal(out[0, 0], np.tile(np.rint(lower + 0.5), (tokens, 1)))


def test_int8_saturates(device: Device) -> None:
    values = np.tile(np.array([-128, -100, -65, -64, -63, 63, 64, 127]), (8, 1))
    spec, tensors = _uniform_int8(values, 0.5)
    out = device.run(spec, tensors, "int8")
    np.testing.assert_array_equal(out[0, 0, 3], [-128, -128, -128, -128, -126, 126, 127, 127])


def test_int8_multiplies_the_largest_integers_exactly(device: Device) -> None:
    # q·k is the largest there is; a step less in one key is exp(-ln 2), so the weights are 2 : 1.
    dim = 128
    scale = float(np.log(2) / 128)
    group = HeadGroup(1, (1, 2))
    spec = AttentionSpec(
        dim, 1, (group,), softmax_scale=scale, qkv_quant_scale=1.0, out_quant_scale=1.0
    )
    qkv = np.full((1, 1, 2, 3, dim), -128, np.int8)
    qkv[0, 0, 1, 1, 77] = -127
    qkv[0, 0, 0, 2], qkv[0, 0, 1, 2] = 0, 120
    out = device.run(spec, {"qkv": qkv.reshape(1, 1, 2, 3 * dim)}, "int8")
    np.testing.assert_array_equal(out, np.full_like(out, 40))


@pytest.mark.parametrize("out_type", ["int8", "float16"])
def test_int8_rounds_a_padded_token_to_the_steps_of_qkv(device: Device, out_type: str) -> None:
    spec = AttentionSpec(
        8,
        1,
        (HeadGroup(1, (1, 2)),),
        pad_mode="bias_kv",
        qkv_quant_scale=0.5,
        out_quant_scale=0.25 if out_type == "int8" else 0.0,
    )
    # One token of zeros and one padded token, of equal weight: half of the padded value remains.
    pad_value = np.array([0.75, 1.25, 0.7, -0.8, 63.7, 90.0, -90.0, 0.2], np.float32)
    on_steps = np.array([1.0, 1.0, 0.5, -1.0, 63.5, 63.5, -64.0, 0.0])
    pad_key = np.full(8, 3.3, np.float32)
    tensors = {"qkv": np.zeros((1, 1, 1, 24), np.int8), "pad_kv": np.append(pad_key, pad_value)}
    out = device.run(spec, tensors, out_type).reshape(-1)
    expected = to_steps(on_steps / 2, 0.25) if out_type == "int8" else on_steps / 2
    np.testing.assert_array_equal(out, expected)
