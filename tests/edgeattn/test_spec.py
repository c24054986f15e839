"""Specs: every rule they enforce, and the way to a node's attributes and back."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.errors import EdgeAttnError, SpecError
from edgeattn.spec import ATTRIBUTE_KINDS, AttentionSpec, HeadGroup, head_groups_from_windows
from tests import oracle
from tests.cases import NAMED_CASES, cases, specs


def refuses(message: str) -> Any:
    """Expect a `SpecError` with exactly this message."""
    return pytest.raises(SpecError, match=f"^{re.escape(message)}$")


# --- head groups ----------------------------------------------------------------------------------


def test_one_integer_means_a_square() -> None:
    group = HeadGroup(2, 4, 2)
    assert (group.window_size, group.shift_size) == ((4, 4), (2, 2))
    dilated = HeadGroup(2, 3, mode="neighborhood", dilation=2)
    assert dilated.dilation == (2, 2)


def test_integers_of_numpy_and_lists_become_pythons_own() -> None:
    group = HeadGroup(np.int64(2), [np.int32(4), 3], head_offset=np.int8(1))
    assert group == HeadGroup(2, (4, 3), head_offset=1)
    assert {type(v) for v in (group.num_heads, *group.window_size, group.head_offset)} == {int}


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
def test_a_group_without_a_positive_number_of_heads_is_refused(value: Any) -> None:
    with refuses(f"num_heads is {value!r}; expected an integer of at least 1"):
        HeadGroup(value, 4)


@pytest.mark.parametrize("value", [-1, 0.0, False, None])
def test_a_head_offset_below_zero_or_of_another_type_is_refused(value: Any) -> None:
    with refuses(f"head_offset is {value!r}; expected an integer of at least 0"):
        HeadGroup(1, 4, head_offset=value)


@pytest.mark.parametrize("value", [-1, (4,), (4, 4, 4), (4, -1), 4.0, (4, 4.0), True, "44", None])
def test_a_window_that_is_not_two_sizes_is_refused(value: Any) -> None:
    with refuses(f"window_size is {value!r}; expected two integers (rows, cols), each at least 0"):
        HeadGroup(1, value)


@pytest.mark.parametrize("value", [-1, (1, -1), (1,), 0.5])
def test_a_shift_that_is_not_two_sizes_is_refused(value: Any) -> None:
    with refuses(f"shift_size is {value!r}; expected two integers (rows, cols), each at least 0"):
        HeadGroup(1, 4, value)


@pytest.mark.parametrize("value", [0, (1, 0), (1, 1, 1), 1.5])
def test_a_dilation_below_one_is_refused(value: Any) -> None:
    with refuses(f"dilation is {value!r}; expected two integers (rows, cols), each at least 1"):
        HeadGroup(1, 3, mode="neighborhood", dilation=value)


@pytest.mark.parametrize("value", ["Block", "", None, 0])
def test_an_unknown_mode_is_refused(value: Any) -> None:
    with refuses(f"mode is {value!r}; expected one of block, grid, neighborhood"):
        HeadGroup(1, 4, mode=value)


@pytest.mark.parametrize(
    ("window", "shift"), [((4, 4), (4, 0)), ((4, 4), (0, 5)), ((0, 4), (1, 0)), ((4, 1), (0, 1))]
)
def test_a_shift_not_below_its_window_is_refused(
    window: tuple[int, int], shift: tuple[int, int]
) -> None:
    with refuses(f"shift_size {shift} is not below window_size {window}") as caught:
        HeadGroup(1, window, shift)
    assert caught.value.hint == "a window that spans the whole axis (0) has no shift"


@pytest.mark.parametrize("mode", ["grid", "neighborhood"])
def test_a_shift_outside_block_mode_is_refused(mode: Any) -> None:
    with refuses(f"shift_size goes with block mode, not {mode}"):
        HeadGroup(1, 4, (0, 1), mode=mode)


@pytest.mark.parametrize("mode", ["block", "grid"])
@pytest.mark.parametrize("option", [{"dilation": (1, 2)}, {"causal": True}])
def test_dilation_and_causal_outside_neighborhood_mode_are_refused(
    mode: Any, option: dict[str, Any]
) -> None:
    with refuses(f"dilation and causal go with neighborhood mode, not {mode}"):
        HeadGroup(1, (1, 4), mode=mode, **option)


@pytest.mark.parametrize(("window", "dilation"), [((2, 4), (1, 1)), ((1, 4), (2, 1))])
def test_a_causal_group_over_several_rows_is_refused(
    window: tuple[int, int], dilation: tuple[int, int]
) -> None:
    with refuses(f"a causal group works on sequences (H = 1), not on windows {window}") as caught:
        HeadGroup(1, window, mode="neighborhood", dilation=dilation, causal=True)
    assert caught.value.hint == "use window_size (1, length)"


@pytest.mark.parametrize("rows", [0, 1])
def test_a_causal_group_on_one_row_is_accepted(rows: int) -> None:
    assert HeadGroup(1, (rows, 4), mode="neighborhood", dilation=(1, 2), causal=True).causal


def test_bias_entries_count_every_difference_of_two_places_per_head() -> None:
    group = HeadGroup(3, (2, 5))
    differences = {(a // 5 - b // 5, a % 5 - b % 5) for a in range(2 * 5) for b in range(2 * 5)}
    assert group.bias_entries == 3 * len(differences)


# --- attention specs ------------------------------------------------------------------------------

GROUP = HeadGroup(2, 4)


@pytest.mark.parametrize("value", [0, -3, 32.0, True, None])
@pytest.mark.parametrize("name", ["head_dim", "qkv_heads"])
def test_a_projection_without_heads_or_channels_is_refused(name: str, value: Any) -> None:
    sizes = {"head_dim": 4, "qkv_heads": 2, name: value}
    with refuses(f"{name} is {value!r}; expected an integer of at least 1"):
        AttentionSpec(**sizes, head_groups=(GROUP,))


@pytest.mark.parametrize("value", [(), [], GROUP, ({"num_heads": 2},), None])
def test_anything_but_a_sequence_of_groups_is_refused(value: Any) -> None:
    with refuses(f"head_groups is {value!r}; expected a sequence of at least one HeadGroup"):
        AttentionSpec(4, 2, value)


def test_a_list_of_groups_becomes_a_tuple_so_that_specs_are_hashable() -> None:
    spec = AttentionSpec(4, 2, [GROUP])
    assert spec == AttentionSpec(4, 2, (GROUP,))
    assert len({spec, AttentionSpec(4, 2, (GROUP,))}) == 1


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("qkv_layout", "3HD or H3D"),
        ("pad_mode", "mask or bias_kv"),
        ("shift_pad_order", "pad_then_roll or roll_then_pad"),
        ("qk_mode", "dot or cosine"),
    ],
)
def test_an_unknown_choice_is_refused(name: str, choices: str) -> None:
    with refuses(f"{name} is 'other'; expected {choices}"):
        AttentionSpec(4, 2, (GROUP,), **{name: "other"})


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan, "1", None])
@pytest.mark.parametrize("name", ["softmax_scale", "qkv_quant_scale", "out_quant_scale"])
def test_a_scale_that_is_negative_or_not_finite_is_refused(name: str, value: Any) -> None:
    with refuses(f"{name} is {value!r}; expected 0 or a positive number"):
        AttentionSpec(4, 2, (GROUP,), **{name: value})


@pytest.mark.parametrize("value", [0.0, 100.0, math.inf, math.nan, "-inf", None])
def test_a_mask_value_that_does_not_lower_a_logit_is_refused(value: Any) -> None:
    with refuses(f"mask_value is {value!r}; expected a number below 0"):
        AttentionSpec(4, 2, (GROUP,), mask_value=value)


def test_numbers_of_other_types_become_floats() -> None:
    spec = AttentionSpec(4, 2, (GROUP,), softmax_scale=1, mask_value=np.float32(-100))
    assert [type(spec.softmax_scale), type(spec.mask_value)] == [float, float]


def test_a_group_beyond_the_heads_of_the_projection_is_refused() -> None:
    with refuses("a head group uses heads 1 to 2 of a projection with 2"):
        AttentionSpec(4, 2, (GROUP, HeadGroup(2, 4, head_offset=1)))


@pytest.mark.parametrize("window", [(0, 0), (0, 4), (4, 0)])
def test_a_bias_table_for_a_window_of_unknown_size_is_refused(window: tuple[int, int]) -> None:
    with refuses(f"a bias table needs a fixed window, got {window}") as caught:
        AttentionSpec(4, 2, (HeadGroup(2, window),), has_bias=True)
    assert caught.value.hint == "give the window in tokens, or set has_bias to False"


def test_spec_errors_are_the_toolkits_and_pythons_value_errors() -> None:
    assert issubclass(SpecError, EdgeAttnError)
    assert issubclass(SpecError, ValueError)


def test_the_softmax_scale_defaults_to_the_inverse_root_of_head_dim() -> None:
    assert AttentionSpec(16, 2, (GROUP,)).effective_softmax_scale == 0.25
    assert AttentionSpec(16, 2, (GROUP,), softmax_scale=1.0).effective_softmax_scale == 1.0


def test_inputs_are_named_in_the_nodes_order_only_where_called_for() -> None:
    assert AttentionSpec(4, 2, (GROUP,)).input_names == ("qkv",)
    full = AttentionSpec(
        4, 2, (GROUP, HeadGroup(1, (2, 3))), has_bias=True, pad_mode="bias_kv", qk_mode="cosine"
    )
    assert full.input_names == ("qkv", "bias_table", "pad_kv", "logit_scale")
    assert full.input_shapes() == {
        "bias_table": (2 * 7 * 7 + 3 * 5,),
        "pad_kv": (2 * 2 * 4,),
        "logit_scale": (2,),
    }
    assert list(full.input_shapes()) == list(full.input_names[1:])


@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES)
def test_channels_and_table_sizes_are_those_that_the_oracle_reads(case: Any) -> None:
    tensors = case.tensors()
    assert tensors["qkv"].shape[3] == case.spec.qkv_channels
    out = oracle.attention(case.spec, **tensors)
    assert out.shape == (case.batch, case.height, case.width, case.spec.out_channels)


# --- attributes -----------------------------------------------------------------------------------

FULL = AttentionSpec(
    8,
    4,
    (
        HeadGroup(1, (4, 5), (2, 0), 3),
        HeadGroup(2, (1, 3), (0, 0), 1, "neighborhood", (1, 2), True),
    ),
    softmax_scale=0.5,
    qkv_layout="H3D",
    has_bias=True,
    pad_mode="bias_kv",
    shift_pad_order="roll_then_pad",
    mask_value=-100.0,
    qk_mode="cosine",
    qkv_quant_scale=0.125,
    out_quant_scale=0.25,
)
FULL_ATTRIBUTES: dict[str, Any] = {
    "head_dim": 8,
    "qkv_heads": 4,
    "softmax_scale": 0.5,
    "qkv_layout": 1,
    "has_bias": 1,
    "pad_mode": 1,
    "shift_pad_order": 1,
    "mask_value": -100.0,
    "qk_mode": 1,
    "group_head_offset": [3, 1],
    "group_num_heads": [1, 2],
    "group_window": [4, 5, 1, 3],
    "group_shift": [2, 0, 0, 0],
    "group_mode": [0, 2],
    "group_dilation": [1, 1, 1, 2],
    "group_causal": [0, 1],
    "qkv_quant_scale": 0.125,
    "out_quant_scale": 0.25,
}


def test_attributes_spell_a_spec_out_as_the_operator_contract_says() -> None:
    assert FULL.to_attributes() == FULL_ATTRIBUTES
    assert AttentionSpec.from_attributes(FULL_ATTRIBUTES) == FULL


@given(specs())
def test_attributes_lead_back_to_the_spec(spec: AttentionSpec) -> None:
    attributes = spec.to_attributes()
    assert list(attributes) == list(ATTRIBUTE_KINDS)
    types = {"int": int, "float": float, "int[]": list}
    assert [type(v) for v in attributes.values()] == [types[k] for k in ATTRIBUTE_KINDS.values()]
    assert AttentionSpec.from_attributes(attributes) == spec


@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_attributes_does_not_matter(case: Any, random: Any) -> None:
    items = list(case.spec.to_attributes().items())
    random.shuffle(items)
    assert AttentionSpec.from_attributes(dict(items)) == case.spec


def test_optional_attributes_have_the_defaults_of_the_spec() -> None:
    required = {"head_dim": 4, "qkv_heads": 3, "group_num_heads": [2, 1], "group_window": [4] * 4}
    expected = AttentionSpec(4, 3, (HeadGroup(2, 4), HeadGroup(1, 4)))
    assert AttentionSpec.from_attributes(required) == expected


@pytest.mark.parametrize("name", ["head_dim", "qkv_heads", "group_num_heads", "group_window"])
def test_a_missing_attribute_is_named(name: str) -> None:
    attributes = {key: value for key, value in FULL_ATTRIBUTES.items() if key != name}
    with refuses(f"the attention node has no attribute {name}"):
        AttentionSpec.from_attributes(attributes)


def test_unknown_attributes_are_named() -> None:
    with refuses("the attention node has unknown attributes: colour, window"):
        AttentionSpec.from_attributes({**FULL_ATTRIBUTES, "window": 7, "colour": 1})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("group_head_offset", 2),
        ("group_window", 4),
        ("group_shift", 4),
        ("group_mode", 2),
        ("group_dilation", 4),
        ("group_causal", 2),
    ],
)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_list_of_another_length_is_refused(name: str, expected: int, change: int) -> None:
    values = [1] * (expected + change)
    with refuses(
        f"attribute {name} has {len(values)} entries; expected {expected} for 2 head groups"
    ):
        AttentionSpec.from_attributes({**FULL_ATTRIBUTES, name: values})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("head_dim", 8.0, "an integer"),
        ("qk_mode", "dot", "an integer"),
        ("has_bias", [1], "an integer"),
        ("softmax_scale", "0.5", "a number"),
        ("mask_value", [-1.0], "a number"),
        ("group_window", 4, "a list of integers"),
        ("group_num_heads", b"\x01\x02", "a list of integers"),
        ("group_mode", ["block", "grid"], "a list of integers"),
        ("group_shift", [2.0, 0.0, 0.0, 0.0], "a list of integers"),
    ],
)
def test_an_attribute_of_another_type_is_refused(name: str, value: Any, expected: str) -> None:
    with refuses(f"attribute {name} is {value!r}; expected {expected}"):
        AttentionSpec.from_attributes({**FULL_ATTRIBUTES, name: value})


@pytest.mark.parametrize("value", [-1, 2])
@pytest.mark.parametrize(
    "name", ["qkv_layout", "has_bias", "pad_mode", "shift_pad_order", "qk_mode"]
)
def test_a_choice_out_of_range_is_refused(name: str, value: int) -> None:
    with refuses(f"{name} is {value}; expected 0 to 1"):
        AttentionSpec.from_attributes({**FULL_ATTRIBUTES, name: value})


@pytest.mark.parametrize(
    ("name", "value", "last"), [("group_mode", -1, 2), ("group_mode", 3, 2), ("group_causal", 2, 1)]
)
def test_a_choice_of_a_group_out_of_range_is_refused(name: str, value: int, last: int) -> None:
    with refuses(f"{name} is {value}; expected 0 to {last}"):
        AttentionSpec.from_attributes({**FULL_ATTRIBUTES, name: [0, value]})


def test_attributes_of_an_impossible_group_are_refused() -> None:
    with refuses("shift_size (4, 0) is not below window_size (4, 5)"):
        AttentionSpec.from_attributes({**FULL_ATTRIBUTES, "group_shift": [4, 0, 0, 0]})


# --- windows to groups ----------------------------------------------------------------------------


def test_heads_are_shared_out_evenly_and_first_groups_are_larger() -> None:
    groups = head_groups_from_windows(8, [4, (8, 6), 0])
    assert groups == (
        HeadGroup(3, (4, 4)),
        HeadGroup(3, (8, 6), head_offset=3),
        HeadGroup(2, (0, 0), head_offset=6),
    )


def test_shifted_windows_move_by_half_of_themselves() -> None:
    groups = head_groups_from_windows(3, [(4, 7), 1, 0], shifted=True)
    assert [group.shift_size for group in groups] == [(2, 3), (0, 0), (0, 0)]


def test_groups_take_the_mode_asked_for() -> None:
    assert {g.mode for g in head_groups_from_windows(2, [3, 5], mode="neighborhood")} == {
        "neighborhood"
    }


@given(st.integers(1, 12), st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_every_head_falls_to_exactly_one_group(num_heads: int, windows: list[int]) -> None:
    windows = windows[:num_heads]
    groups = head_groups_from_windows(num_heads, windows)
    heads = [h for g in groups for h in range(g.head_offset, g.head_offset + g.num_heads)]
    assert heads == list(range(num_heads))
    sizes = [group.num_heads for group in groups]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("windows", [(), (4, 4, 4, 4)])
def test_more_windows_than_heads_or_none_are_refused(windows: tuple[int, ...]) -> None:
    with refuses(f"3 heads cannot be shared out over {len(windows)} windows"):
        head_groups_from_windows(3, windows)


def test_heads_that_are_not_an_integer_cannot_be_shared_out() -> None:
    with refuses("num_heads is 3.0; expected an integer of at least 1"):
        head_groups_from_windows(3.0, [4])  # type: ignore[arg-type]


def test_shifted_grids_are_refused() -> None:
    with refuses("shift_size goes with block mode, not grid"):
        head_groups_from_windows(2, [4, 8], shifted=True, mode="grid")
