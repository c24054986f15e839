"""Inputs of a query are checked with one sentence each, and made contiguous."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeattn.engine.base import TensorSpec, check_inputs
from edgeattn.errors import DataError

IMAGE = TensorSpec("image", "float32", ("batch", 3, "height", "width"))
MASK = TensorSpec("mask", "bool", ("batch", "height"))


def good() -> dict[str, np.ndarray]:
    return {"image": np.ones((2, 3, 5, 7), np.float32), "mask": np.ones((2, 5), bool)}


def refused(inputs: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        check_inputs((IMAGE, MASK), inputs)
    return caught.value


def test_good_inputs_come_back_uncopied_in_the_order_of_the_engine() -> None:
    inputs = good()
    checked = check_inputs((IMAGE, MASK), dict(reversed(inputs.items())))
    assert list(checked) == ["image", "mask"]
    assert all(np.shares_memory(checked[name], inputs[name]) for name in inputs)


def test_non_contiguous_and_foreign_byte_order_arrays_are_made_native() -> None:
    array = np.arange(2 * 3 * 5 * 7, dtype=np.float32).reshape(2, 5, 7, 3).transpose(0, 3, 1, 2)
    swapped = array.astype(">f4")
    for given in (array, swapped, array[:, :, ::-1]):
        checked = check_inputs((IMAGE,), {"image": given})["image"]
        assert checked.flags.c_contiguous
        assert checked.dtype == np.dtype("=f4")
        np.testing.assert_array_equal(checked, given)


def test_a_scalar_stays_a_scalar() -> None:
    spec = TensorSpec("s", "int64", ())
    assert check_inputs((spec,), {"s": np.array(3)})["s"].shape == ()


def test_a_missing_input_is_named() -> None:
    error = refused({"image": good()["image"]})
    assert "the input mask is missing" in error.message
    assert "image, mask" in error.hint


def test_an_unknown_input_is_answered_with_its_near_misses() -> None:
    error = refused(good() | {"imgae": np.zeros(1)})
    assert "no input imgae" in error.message
    assert error.hint == "did you mean image?"


def test_a_name_like_no_other_is_answered_with_all() -> None:
    assert refused(good() | {"qqq": np.zeros(1)}).hint == "known are: image, mask"


@pytest.mark.parametrize("inputs", [None, [1, 2], "in.npz", np.zeros(3)])
def test_what_is_no_mapping_is_refused(inputs: Any) -> None:
    assert "expected arrays by name" in refused(inputs).message


def test_a_list_is_no_array() -> None:
    assert "is a list; expected a numpy array" in refused(good() | {"mask": [[True]]}).message


def test_another_type_is_refused_with_the_conversion() -> None:
    error = refused(good() | {"image": np.ones((2, 3, 5, 7))})
    assert error.message == "the input image is float64; expected float32"
    assert error.hint == "convert it: array.astype('float32')"


def test_another_rank_is_refused() -> None:
    message = refused(good() | {"image": np.ones((3, 5, 7), np.float32)}).message
    assert "(3, 5, 7) of rank 3; expected rank 4: (batch, 3, height, width)" in message


def test_another_size_is_refused_with_its_axis() -> None:
    message = refused(good() | {"image": np.ones((2, 1, 5, 7), np.float32)}).message
    assert "size 1 on axis 1; expected 3" in message


def test_an_empty_input_is_refused() -> None:
    assert "is empty" in refused(good() | {"mask": np.ones((0, 5), bool)}).message


def test_a_dimension_has_one_size_in_all_inputs() -> None:
    message = refused(good() | {"mask": np.ones((2, 6), bool)}).message
    assert message == "the dimension height is 5 in the input image but 6 in mask"


def test_a_spec_reads_like_a_declaration() -> None:
    assert str(IMAGE) == "image: float32[batch, 3, height, width]"
