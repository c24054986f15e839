"""Specs of a model's inputs: what they accept and the message of each refusal."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from edgeattn.errors import SpecError
from edgeattn.inputs import ImagePreprocess, InputSpec


def refuses(message: str) -> Any:
    """Expect a `SpecError` with exactly this message."""
    return pytest.raises(SpecError, match=f"^{re.escape(message)}$")


def test_the_command_lines_form_of_an_input_is_read() -> None:
    assert InputSpec.parse("images:1x3x224x224") == InputSpec((1, 3, 224, 224), "images")
    # Names of exported graphs may hold colons themselves.
    assert InputSpec.parse("model/in:0:1x8") == InputSpec((1, 8), "model/in:0")


@pytest.mark.parametrize(
    "text",
    ["", "1x3", ":1x3", "x:", "x:1x", "x:1xa", "x:0x3", "x:-1x3", "x:1,3", "x:1x3²", "x:1x 3"],
)
def test_another_form_of_an_input_is_refused(text: str) -> None:
    with refuses(f"input {text!r} is not of the form NAME:1x3x224x224"):
        InputSpec.parse(text)


def test_dimensions_are_positive_sizes_or_names() -> None:
    assert InputSpec(["batch", 3, 8, "width"]).shape == ("batch", 3, 8, "width")


@pytest.mark.parametrize("dim", [0, -1, "", 1.0, True, None])
def test_another_dimension_is_refused(dim: Any) -> None:
    with refuses(f"input x has the shape {(2, dim)}; expected positive sizes"):
        InputSpec((2, dim), "x")


@pytest.mark.parametrize("shape", ["1x3", 5, None])
def test_a_shape_that_is_not_a_sequence_is_refused(shape: Any) -> None:
    with refuses(f"input x has the shape {shape!r}; expected a sequence of sizes"):
        InputSpec(shape, "x")


def test_an_empty_name_is_refused() -> None:
    with refuses("an input has an empty name"):
        InputSpec((1,), "")


@pytest.mark.parametrize("dtype", ["float", "complex64", ""])
def test_an_unknown_type_is_refused(dtype: str) -> None:
    with refuses(
        f"input x has the type {dtype}; expected one of float32, float16, bfloat16, float64, "
        "int64, int32, int16, int8, uint64, uint32, uint16, uint8, bool"
    ):
        InputSpec((1,), "x", dtype)


def test_preprocessing_numbers_become_tuples_of_floats() -> None:
    preprocess = ImagePreprocess([0, 0, 0], [1, 1, 1], 256)
    assert preprocess == ImagePreprocess((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 256)
    assert {type(v) for v in (*preprocess.mean, *preprocess.std)} == {float}


@pytest.mark.parametrize(("mean", "std"), [(2, 2), (1, 3), (0, 0)])
def test_another_number_of_channels_is_refused(mean: int, std: int) -> None:
    with refuses(f"mean has {mean} values and std {std}; expected 1 or 3 of each"):
        ImagePreprocess((0.0,) * mean, (1.0,) * std)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_mean_that_is_not_finite_is_refused(value: float) -> None:
    with refuses(f"mean is ({value},); expected finite values"):
        ImagePreprocess((value,), (1.0,))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_std_that_cannot_divide_is_refused(value: float) -> None:
    with refuses(f"std is ({value},); expected finite positive values"):
        ImagePreprocess((0.0,), (value,))


@pytest.mark.parametrize("value", [-1, 1.5, None])
def test_a_resize_that_is_not_a_length_is_refused(value: Any) -> None:
    with refuses(f"resize is {value!r}; expected an integer of at least 0"):
        ImagePreprocess((0.0,), (1.0,), value)
