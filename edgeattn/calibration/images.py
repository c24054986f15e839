"""Image files as model inputs: decode, resize, centre crop, scale to [0, 1], normalise.

The geometry is torchvision's (shorter side to `resize`, bilinear with antialiasing, crop offset
rounded to even), so that a model sees on the board what it saw in training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeattn.errors import DataError
from edgeattn.inputs import Dim, ImagePreprocess, InputSpec

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)

# Pillow clips deeper samples to 8 bits in silence; these modes have at most 8.
_EIGHT_BIT_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"))


class BadImageError(DataError):
    """An image file that cannot become an input; a data set may tolerate a few."""


def check_image_input(spec: InputSpec) -> ImagePreprocess:
    """Tell how image files become this input.

    Raises:
        DataError: If the input is not a float32 image `[B, C, H, W]` with known preprocessing.
    """
    hint = "export the model with an ImagePreprocess, or give arrays (.npz, .npy)"
    if spec.preprocess is None:
        raise DataError(f"input {spec.name} does not say how images become inputs", hint)
    channels = len(spec.preprocess.mean)
    fits = len(spec.shape) == 4 and (isinstance(spec.shape[1], str) or spec.shape[1] == channels)
    if not fits or spec.dtype != "float32":
        raise DataError(
            f"input {spec.name} has the shape {spec.shape} and type {spec.dtype}; images with "
            f"{channels} channels need (batch, {channels}, height, width) and float32",
            hint,
        )
    return spec.preprocess


def load_image(path: Path, spec: InputSpec) -> NDArray[np.float32]:
    """Read an image file as one sample of an input.

    A size that the graph leaves open is `resize`, or the image's own where that is 0.

    Args:
        path: File in a format that Pillow reads, 8 bits per channel.
        spec: An input `[B, C, H, W]` that carries an `ImagePreprocess`.

    Returns:
        `[C, H, W]` float32: `(value / 255 - mean) / std`.

    Raises:
        BadImageError: If the file is not a whole image or smaller than the crop.
        DataError: If the input does not take images.
    """
    preprocess = check_image_input(spec)
    pixels = _decode(path, preprocess)
    pixels = _centre_crop(pixels, _crop_size(spec, preprocess), path)
    mean = np.array(preprocess.mean, np.float32)[:, None, None]
    std = np.array(preprocess.std, np.float32)[:, None, None]
    planes = np.moveaxis(pixels, 2, 0).astype(np.float32)
    return np.ascontiguousarray((planes / np.float32(255) - mean) / std)


def _decode(path: Path, preprocess: ImagePreprocess) -> NDArray[np.uint8]:
    """Read `[H, W, C]` bytes with the shorter side resized."""
    from PIL import Image  # an import of 50 ms that arrays do not need

    try:
        with Image.open(path) as image:
            if image.mode not in _EIGHT_BIT_MODES:
                raise BadImageError(
                    f"{path} has pixels of mode {image.mode}; expected 8 bits per channel",
                    "convert it to grey or RGB with 8 bits",
                )
            image = image.convert("L" if len(preprocess.mean) == 1 else "RGB")
    except BadImageError:
        raise
    except Exception as err:  # decoders raise whatever their format's parser meets
        raise BadImageError(f"{path} is not a readable image: {err}") from err
    if preprocess.resize:
        width, height = image.size
        short = min(width, height)
        size = (preprocess.resize * width // short, preprocess.resize * height // short)
        if size != image.size:
            image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _crop_size(spec: InputSpec, preprocess: ImagePreprocess) -> tuple[int, int]:
    """Height and width to cut out; 0 keeps what the image has."""

    def side(dim: Dim) -> int:
        return preprocess.resize if isinstance(dim, str) else dim

    return side(spec.shape[2]), side(spec.shape[3])


def _centre_crop(pixels: NDArray[np.uint8], crop: tuple[int, int], path: Path) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    rows, cols = crop[0] or height, crop[1] or width
    if height < rows or width < cols:
        raise BadImageError(
            f"{path} is {height}x{width} pixels (after resizing); the input needs {rows}x{cols}",
            "set resize in the model's ImagePreprocess",
        )
    top, left = round((height - rows) / 2), round((width - cols) / 2)
    return pixels[top : top + rows, left : left + cols]
