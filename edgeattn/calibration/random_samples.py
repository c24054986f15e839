"""Random inputs: of sensible values, the same for the same seed. They stand in for no real data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeattn.errors import DataError
from edgeattn.inputs import ImagePreprocess, InputSpec


class _Described(Protocol):
    """An input of a graph or an engine."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def preprocess(self) -> ImagePreprocess | None: ...


@dataclass(frozen=True)
class RandomSamples:
    """Asks for random samples in place of data.

    Args:
        count: How many.
        seed: Equal seeds give equal samples.

    Raises:
        DataError: If there would be none.
    """

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the number."""
        if self.count < 1:
            raise DataError(f"random is {self.count}; expected at least 1", "give another number")


class RandomSource:
    """Random samples for a graph's inputs; each depends on the seed and its own number alone.

    Args:
        samples: How many, of which seed.
        inputs: The graph's inputs. A free size of an image is what its preprocessing resizes to.

    Raises:
        DataError: If an input leaves another size open.
    """

    label = "random"

    def __init__(self, samples: RandomSamples, inputs: Sequence[InputSpec]) -> None:
        self._samples = samples
        self._inputs = inputs
        self._shapes = {spec.name: _sample_shape(spec) for spec in inputs}

    def __len__(self) -> int:
        """Count the samples."""
        return self._samples.count

    def name(self, index: int) -> str:
        """Number of one sample, from 0 on."""
        return f"random sample {index}"

    def load(self, index: int) -> dict[str, NDArray[Any]]:
        """Draw one sample.

        Raises:
            DataError: If an input holds neither numbers nor booleans.
        """
        rng = np.random.default_rng([self._samples.seed, index])
        return {s.name: random_array(s, self._shapes[s.name], rng) for s in self._inputs}


def random_array(
    spec: _Described, shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[Any]:
    """Draw an array as an input holds it.

    Images are uniform in [0, 1], normalised as the input's preprocessing says; other floats are
    standard normal, which neither overflows nor becomes subnormal; bytes without a sign, which
    are pixels, are uniform; other integers are 0 or 1, legal as indices nearly everywhere.

    Raises:
        DataError: If the input holds neither numbers nor booleans.
    """
    if spec.preprocess is not None:
        pixels = rng.random(shape)
        channels = len(spec.preprocess.mean)
        per_channel = (channels, 1, 1) if pixels.ndim >= 3 else (1,)
        mean = np.reshape(spec.preprocess.mean, per_channel)
        std = np.reshape(spec.preprocess.std, per_channel)
        return ((pixels - mean) / std).astype(spec.dtype)
    if spec.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    if spec.dtype == "bool" or "int" in spec.dtype:
        return rng.integers(0, 2, shape).astype(spec.dtype)
    if "float" in spec.dtype:
        return rng.standard_normal(shape).astype(spec.dtype)
    raise DataError(f"no random {spec.dtype} can be drawn for the input {spec.name}")


def _sample_shape(spec: InputSpec) -> tuple[int, ...]:
    resize = spec.preprocess.resize if spec.preprocess else 0
    shape = tuple(resize if isinstance(dim, str) else dim for dim in spec.shape[1:])
    if not all(shape):
        raise DataError(
            f"input {spec.name} has the shape {spec.shape}: random values need every size but the "
            "first",
            "give data, or export the graph without --dynamic",
        )
    return shape
