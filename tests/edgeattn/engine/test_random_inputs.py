"""Random inputs are repeatable and of values that the input can hold."""

from __future__ import annotations

import ml_dtypes  # noqa: F401  # teaches numpy the type bfloat16
import numpy as np
import pytest

from edgeattn.engine.base import TensorSpec
from edgeattn.engine.random_inputs import random_inputs
from edgeattn.errors import DataError
from edgeattn.inputs import ImagePreprocess

PLAIN = TensorSpec("x", "float32", (4, 5))
FREE = TensorSpec("x", "float32", ("batch", 5))


def test_equal_seeds_give_equal_arrays_and_others_others() -> None:
    first, again, other = (random_inputs((PLAIN,), seed=seed)["x"] for seed in (3, 3, 4))
    assert first.dtype == np.float32
    assert first.shape == (4, 5)
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_images_are_normalised_as_their_preprocessing_says() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)
    spec = TensorSpec("image", "float32", (2, 3, 32, 32), ImagePreprocess(mean, std))
    image = random_inputs((spec,))["image"]
    pixels = image * np.reshape(std, (3, 1, 1)) + np.reshape(mean, (3, 1, 1))
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    np.testing.assert_allclose(pixels.mean(axis=(0, 2, 3)), 0.5, atol=0.05)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "bool"])
def test_integers_are_zero_or_one(dtype: str) -> None:
    values = random_inputs((TensorSpec("i", dtype, (50,)),))["i"]
    assert values.dtype.name == dtype
    assert set(values.astype(int)) == {0, 1}


def test_bytes_without_a_sign_are_pixels() -> None:
    values = random_inputs((TensorSpec("i", "uint8", (5000,)),))["i"]
    assert values.dtype.name == "uint8"
    assert set(values) == set(range(256))


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_every_float_type_is_drawn(dtype: str) -> None:
    assert random_inputs((TensorSpec("f", dtype, (50,)),))["f"].dtype.name == dtype


def test_a_free_dimension_takes_its_size_from_the_shapes() -> None:
    assert random_inputs((FREE,), {"x": (7, 5)})["x"].shape == (7, 5)


def test_a_free_dimension_without_a_size_is_refused() -> None:
    with pytest.raises(DataError, match="no size for the dimension batch"):
        random_inputs((FREE,))


def test_a_shape_for_an_unknown_input_is_refused() -> None:
    with pytest.raises(DataError, match="no input y"):
        random_inputs((FREE,), {"y": (7, 5)})


def test_a_type_without_numbers_is_refused() -> None:
    with pytest.raises(DataError, match="no random object"):
        random_inputs((TensorSpec("o", "object", (1,)),))
