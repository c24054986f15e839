"""What the kernels refuse, and how they say so."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeattn.errors import PluginError, SpecError
from edgeattn.plugin import kernels
from edgeattn.plugin.kernels import Emulator
from edgeattn.spec import AttentionSpec, HeadGroup

SPEC = AttentionSpec(8, 4, (HeadGroup(2, (4, 6), (1, 2), 1), HeadGroup(1, 3, mode="grid")))
INT8 = replace(SPEC, qkv_quant_scale=0.5, out_quant_scale=0.25)

ACCEPTED = [
    ("float32", "float32"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("int8", "int8"),
    ("int8", "float16"),
]


@pytest.mark.parametrize("in_type", kernels.ELEMENT_TYPES)
@pytest.mark.parametrize("out_type", kernels.ELEMENT_TYPES)
def test_five_pairs_of_types_are_accepted_and_the_others_refused(
    emulator: Emulator, in_type: str, out_type: str
) -> None:
    spec = INT8 if in_type == "int8" else SPEC
    if (in_type, out_type) in ACCEPTED:
        emulator.check(spec, in_type, out_type)
    else:
        with pytest.raises(SpecError):
            emulator.check(spec, in_type, out_type)


@pytest.mark.parametrize("head_dim", [1, 4, 12, 31, 129, 132, 136, 256])
@pytest.mark.parametrize("types", ACCEPTED[1:])
def test_a_head_dimension_without_a_kernel_is_named(
    emulator: Emulator, head_dim: int, types: tuple[str, str]
) -> None:
    spec = replace(INT8 if types[0] == "int8" else SPEC, head_dim=head_dim)
    with pytest.raises(SpecError, match=rf"\b{head_dim}\b.*\b8\b"):
        emulator.check(spec, *types)


def test_float32_refuses_more_than_256_channels_per_head(emulator: Emulator) -> None:
    emulator.check(replace(SPEC, head_dim=256), "float32", "float32")
    with pytest.raises(SpecError, match="257"):
        emulator.check(replace(SPEC, head_dim=257), "float32", "float32")


def test_thirty_two_head_groups_are_accepted_and_thirty_three_refused(emulator: Emulator) -> None:
    groups = tuple(HeadGroup(1, 2, head_offset=g % 4) for g in range(33))
    emulator.check(replace(SPEC, head_groups=groups[:32]), "float16", "float16")
    with pytest.raises(SpecError, match=r"33.*32"):
        emulator.check(replace(SPEC, head_groups=groups), "float16", "float16")


@pytest.mark.parametrize(
    ("scales", "types"),
    [((0.0, 0.5), ("int8", "int8")), ((0.5, 0.0), ("int8", "int8")), ((0, 0), ("int8", "float16"))],
)
def test_int8_without_its_scales_is_refused(
    emulator: Emulator, scales: tuple[float, float], types: tuple[str, str]
) -> None:
    spec = replace(SPEC, qkv_quant_scale=scales[0], out_quant_scale=scales[1])
    with pytest.raises(SpecError, match="quant_scale"):
        emulator.check(spec, *types)


# --- attributes that only C can give --------------------------------------------------------------

Check = Callable[..., str]


@pytest.fixture(scope="module")
def check(emulator: Emulator) -> Check:
    """Check `SPEC` with some attributes replaced; give the message, "" if it is accepted."""
    function = ctypes.CDLL(str(emulator.path)).edgeattn_check
    function.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.c_char_p,
        ctypes.c_size_t,
    ]

    def checked(
        types: tuple[str, str] = ("float32", "float32"),
        message_bytes: int = kernels.MESSAGE_BYTES,
        **changes: Any,
    ) -> str:
        fields: dict[str, Any] = {"num_groups": 2, **SPEC.to_attributes(), **changes}
        for name, value in fields.items():
            if isinstance(value, list):
                fields[name] = (ctypes.c_int32 * len(value))(*value)
        attributes = kernels.Attributes(**fields)
        message = ctypes.create_string_buffer(b"x" * 512, 513) if message_bytes else None
        ids = (kernels.ELEMENT_TYPES.index(name) for name in types)
        status = function(ctypes.addressof(attributes), *ids, message, message_bytes)
        if status == kernels.SUCCESS:
            return ""
        assert status == kernels.INVALID_ARGUMENT
        return message.value.decode() if message is not None else "refused"

    return checked


# What stands for a name that a sentence would not have.
NAMES = {
    "num_groups": "head groups",
    "group_head_offset": r"from head (3|-1) on",
    "group_num_heads": r"(0|4|2147483647) heads",
}


def test_the_attributes_to_change_are_accepted_as_they_are(check: Check) -> None:
    assert check() == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head_dim", 0),
        ("head_dim", -8),
        ("qkv_heads", 0),
        ("softmax_scale", -1.0),
        ("softmax_scale", math.nan),
        ("softmax_scale", math.inf),
        ("qkv_layout", 2),
        ("qkv_layout", -1),
        ("has_bias", 2),
        ("pad_mode", 2),
        ("shift_pad_order", 2),
        ("mask_value", 0.0),
        ("mask_value", math.nan),
        ("qk_mode", 2),
        ("num_groups", 0),
        ("num_groups", -1),
        ("group_head_offset", [3, 0]),
        ("group_head_offset", [-1, 0]),
        ("group_num_heads", [2, 0]),
        ("group_num_heads", [4, 1]),
        ("group_num_heads", [2**31 - 1, 1]),
        ("group_window", [4, -6, 3, 3]),
        ("group_shift", [1, 6, 0, 0]),
        ("group_shift", [-1, 2, 0, 0]),
        ("group_shift", [1, 2, 1, 0]),
        ("group_mode", [0, 3]),
        ("group_mode", [-1, 1]),
        ("group_dilation", [1, 1, 2, 1]),
        ("group_dilation", [0, 1, 1, 1]),
        ("group_causal", [1, 0]),
        ("group_causal", [0, 2]),
        ("qkv_quant_scale", -0.5),
        ("out_quant_scale", math.nan),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(check: Check, name: str, value: Any) -> None:
    int8 = {"qkv_quant_scale": 0.5, "out_quant_scale": 0.25}
    message = check(types=("int8", "int8"), **{**int8, name: value})
    assert re.search(NAMES.get(name, name.removeprefix("group_")), message)
    assert len(message.encode()) < kernels.MESSAGE_BYTES


@pytest.mark.parametrize(
    "changes",
    [
        {"has_bias": 1, "group_window": [4, 0, 3, 3], "group_shift": [1, 0, 0, 0]},
        {"group_window": [0, 6, 3, 3]},  # a shift of 1 on an axis without windows
        {"group_mode": [2, 1]},  # a shift in a neighborhood
        {"group_mode": [2, 1], "group_shift": [0] * 4, "group_causal": [1, 0]},  # of four rows
    ],
)
def test_values_that_contradict_each_other_are_refused(
    check: Check, changes: dict[str, Any]
) -> None:
    assert check(**changes)


def test_a_caller_may_do_without_the_message_or_give_little_room(check: Check) -> None:
    assert check(message_bytes=0, head_dim=0) == "refused"
    message = check(head_dim=0)
    assert check(message_bytes=10, head_dim=0) == message[:9]


# --- calls ----------------------------------------------------------------------------------------

FULL = AttentionSpec(
    8, 2, (HeadGroup(2, 3, 1),), has_bias=True, pad_mode="bias_kv", qk_mode="cosine"
)


class Call:
    """A call that the emulator accepts, to be spoilt; keeps its arrays alive."""

    def __init__(self, emulator: Emulator, spec: AttentionSpec) -> None:
        self.emulator, self.spec = emulator, spec
        shapes = {"qkv": (1, 4, 5, spec.qkv_channels), **spec.input_shapes()}
        shapes["out"] = (1, 4, 5, spec.out_channels)
        float32 = np.dtype(np.float32)
        self.arrays = {
            name: kernels.aligned_empty(shape, float32) for name, shape in shapes.items()
        }
        for array in self.arrays.values():
            array.fill(1)
        self.addresses = {name: array.ctypes.data for name, array in self.arrays.items()}

    def launch(self, **changes: Any) -> None:
        types = {"in_type": "float32", "out_type": "float32"}
        arguments = {**self.addresses, **types, "shape": (1, 4, 5), **changes}
        self.emulator.launch(self.spec, **arguments)


@pytest.fixture
def call(emulator: Emulator) -> Call:
    return Call(emulator, FULL)


def test_the_call_to_change_is_accepted_as_it_is(call: Call) -> None:
    call.launch()


@pytest.mark.parametrize("name", ["qkv", "out", "bias_table", "pad_kv", "logit_scale"])
def test_a_missing_tensor_is_named(call: Call, name: str) -> None:
    with pytest.raises(PluginError, match=name):
        call.launch(**{name: 0})


@pytest.mark.parametrize("name", ["qkv", "out"])
def test_a_misaligned_tensor_is_named(call: Call, name: str) -> None:
    with pytest.raises(PluginError, match=rf"{name}.*16"):
        call.launch(**{name: call.addresses[name] + 8})


@pytest.mark.parametrize("shape", [(-1, 4, 5), (1, 0, 5), (1, 4, -5)])
def test_a_map_without_a_token_is_refused(call: Call, shape: tuple[int, int, int]) -> None:
    with pytest.raises(PluginError, match=str(min(shape))):
        call.launch(shape=shape)
    with pytest.raises(SpecError):
        call.emulator.variants(FULL, "float32", "float32", shape)


@pytest.mark.parametrize("variant", [-1, 9999])
def test_an_unknown_variant_is_refused(call: Call, variant: int) -> None:
    with pytest.raises(PluginError, match=str(variant)):
        call.launch(variant=variant)


def test_a_causal_group_on_a_map_of_rows_is_refused(emulator: Emulator) -> None:
    group = HeadGroup(2, (1, 3), mode="neighborhood", causal=True)
    call = Call(emulator, AttentionSpec(8, 2, (group,)))
    call.launch(shape=(1, 1, 20))
    with pytest.raises(PluginError, match=r"causal.*4"):
        call.launch()
    with pytest.raises(SpecError):
        emulator.variants(call.spec, "float32", "float32", (1, 4, 5))


def test_a_refused_call_writes_nothing(call: Call) -> None:
    with pytest.raises(PluginError):
        call.launch(variant=9999)
    assert (call.arrays["out"] == 1).all()
