"""Image files become inputs by known arithmetic, and what is no image is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeattn.calibration.images import BadImageError, load_image
from edgeattn.errors import DataError
from edgeattn.inputs import ImagePreprocess, InputSpec

GREY = ImagePreprocess((0.5,), (0.25,))
COLOUR = ImagePreprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def grey_spec(height: int | str = 5, width: int | str = 7, resize: int = 0) -> InputSpec:
    return InputSpec(
        ("batch", 1, height, width), "x", "float32", ImagePreprocess((0.5,), (0.25,), resize)
    )


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def test_grey_pixels_are_scaled_and_normalized(tmp_path):
    pixels = noise(5, 7)
    found = load_image(save(tmp_path / "a.png", pixels), grey_spec())
    assert found.dtype == np.float32
    assert found.shape == (1, 5, 7)
    np.testing.assert_allclose(found[0], (pixels / 255 - 0.5) / 0.25, atol=1e-6)


def test_colour_channels_stand_first_in_the_order_red_green_blue(tmp_path):
    pixels = noise(5, 7, 3)
    found = load_image(
        save(tmp_path / "a.png", pixels), InputSpec((1, 3, 5, 7), "x", "float32", COLOUR)
    )
    expected = (pixels / 255 - np.array(COLOUR.mean)) / np.array(COLOUR.std)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-6)


def test_an_image_follows_the_number_of_channels_asked_for(tmp_path):
    path = save(tmp_path / "a.png", noise(5, 7, 3))
    assert load_image(path, grey_spec()).shape == (1, 5, 7)
    path = save(tmp_path / "b.png", noise(5, 7))
    assert load_image(path, InputSpec((1, 3, 5, 7), "x", "float32", COLOUR)).shape == (3, 5, 7)


@pytest.mark.parametrize(
    ("size", "crop", "top", "left"),
    [
        ((8, 11), (5, 7), 2, 2),
        ((6, 8), (5, 7), 0, 0),
        ((5, 7), (5, 7), 0, 0),
        ((8, 9), (5, 4), 2, 2),
    ],
)
def test_the_crop_is_central_and_rounds_halves_to_even(tmp_path, size, crop, top, left):
    pixels = noise(*size)
    found = load_image(save(tmp_path / "a.png", pixels), grey_spec(*crop))
    expected = pixels[top : top + crop[0], left : left + crop[1]]
    np.testing.assert_allclose(found[0], (expected / 255 - 0.5) / 0.25, atol=1e-6)


@pytest.mark.parametrize(("size", "resized"), [((20, 31), (10, 15)), ((31, 20), (15, 10))])
def test_the_shorter_side_is_resized_and_the_other_follows(tmp_path, size, resized):
    path = save(tmp_path / "a.png", noise(*size))
    found = load_image(path, grey_spec(*resized, resize=10))
    with Image.open(path) as image:
        expected = np.asarray(image.resize(resized[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(found[0], (expected / 255 - 0.5) / 0.25, atol=1e-6)


def test_a_free_size_is_that_of_the_image_or_of_the_resize(tmp_path):
    path = save(tmp_path / "a.png", noise(9, 12))
    assert load_image(path, grey_spec("h", "w")).shape == (1, 9, 12)
    assert load_image(path, grey_spec("h", "w", resize=6)).shape == (1, 6, 6)


@pytest.mark.parametrize(
    "content", [b"not an image", b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\0" * 40]
)
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "fake.png"
    path.write_bytes(content)
    with pytest.raises(BadImageError, match=r"fake\.png is not a readable image"):
        load_image(path, grey_spec())


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_a_truncated_image_is_named(tmp_path, suffix):
    path = save(tmp_path / f"whole.{suffix}", noise(64, 64))
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadImageError, match=rf"cut\.{suffix} is not a readable image"):
        load_image(cut, grey_spec(64, 64))


def test_sixteen_bits_are_refused_and_not_clipped(tmp_path):
    path = save(tmp_path / "deep.png", np.full((5, 7), 40_000, np.uint16))
    with pytest.raises(BadImageError, match="expected 8 bits per channel"):
        load_image(path, grey_spec())


def test_an_image_smaller_than_the_input_is_named(tmp_path):
    path = save(tmp_path / "small.png", noise(4, 7))
    with pytest.raises(BadImageError, match=r"small\.png is 4x7 pixels .* the input needs 5x7"):
        load_image(path, grey_spec())


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec((1, 1, 5, 7), "x"),
        InputSpec((1, 3, 5, 7), "x", "float32", GREY),
        InputSpec((1, 5, 7), "x", "float32", GREY),
        InputSpec((1, 1, 5, 7), "x", "float16", GREY),
    ],
    ids=["no preprocessing", "other channels", "other rank", "other type"],
)
def test_an_input_that_takes_no_images_says_so(tmp_path, spec):
    with pytest.raises(DataError, match="input x"):
        load_image(save(tmp_path / "a.png", noise(5, 7)), spec)
