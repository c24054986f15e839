"""What a model's inputs look like, and how image files become them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeattn.errors import SpecError

Dim = int | str

_FLOATS = ("float32", "float16", "bfloat16", "float64")
_INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
_DTYPES = (*_FLOATS, *_INTEGERS, "bool")


@dataclass(frozen=True)
class ImagePreprocess:
    """How an image file becomes a model input: resize, centre crop, scale, normalise.

    Args:
        mean: Per channel, in units of [0, 1]; its length (1 or 3) is the number of channels.
        std: Per channel, in units of [0, 1].
        resize: Length of the shorter side in pixels before the crop; 0 keeps the image's size.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int = 0

    def __post_init__(self) -> None:
        """Check lengths and ranges."""
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        _require(
            len(self.mean) == len(self.std) and len(self.mean) in (1, 3),
            f"mean has {len(self.mean)} values and std {len(self.std)}; expected 1 or 3 of each",
        )
        _require(
            all(math.isfinite(m) for m in self.mean), f"mean is {self.mean}; expected finite values"
        )
        _require(
            all(math.isfinite(s) and s > 0 for s in self.std),
            f"std is {self.std}; expected finite positive values",
        )
        object.__setattr__(self, "resize", _pixels(self.resize))


@dataclass(frozen=True)
class InputSpec:
    """Name, shape and type of one model input.

    Args:
        shape: Sizes; in a dynamic graph a dimension may be a name such as `batch`.
        name: Name of the tensor in the graph.
        dtype: numpy name of the element type.
        preprocess: How image files become this input; `None` if it is not an image.
    """

    shape: tuple[Dim, ...]
    name: str = "input"
    dtype: str = "float32"
    preprocess: ImagePreprocess | None = None

    def __post_init__(self) -> None:
        """Check name, shape and type."""
        _require(bool(self.name), "an input has an empty name")
        _require(
            isinstance(self.shape, Sequence) and not isinstance(self.shape, str),
            f"input {self.name} has the shape {self.shape!r}; expected a sequence of sizes",
        )
        object.__setattr__(self, "shape", tuple(self.shape))
        for dim in self.shape:
            _require(
                (isinstance(dim, str) and dim != "") or (type(dim) is int and dim >= 1),
                f"input {self.name} has the shape {self.shape}; expected positive sizes",
            )
        _require(
            self.dtype in _DTYPES,
            f"input {self.name} has the type {self.dtype}; expected one of {', '.join(_DTYPES)}",
        )

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """Read the command line's `NAME:1x3x224x224`.

        Raises:
            SpecError: If the text has another form.
        """
        name, colon, dims = text.rpartition(":")
        sizes = dims.split("x")
        _require(
            bool(colon) and bool(name) and all(s.isdecimal() and int(s) > 0 for s in sizes),
            f"input {text!r} is not of the form NAME:1x3x224x224",
        )
        return cls(tuple(int(s) for s in sizes), name)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SpecError(message)


def _pixels(value: Any) -> int:
    try:
        length = operator.index(value)
    except TypeError:
        length = -1
    _require(
        length >= 0 and not isinstance(value, bool),
        f"resize is {value!r}; expected an integer of at least 0",
    )
    return length
