"""Where the elements of a tensor come from, as index numbers of runs of neighbours.

Almost whatever moves tokens leaves the channels of a head side by side. One number stands for all
of them, and there are as few numbers as tokens times heads, whatever spelling an exporter chose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeattn.graph.fusion.found import UnrecognisedError

PAD = -1  # a run that comes from no source: zeros

_MOST_NUMBERS = 1 << 26  # more take gigabytes


@dataclass(frozen=True)
class Runs:
    """Which run of a source each run of a tensor is.

    Attributes:
        numbers: Of the tensor's shape, but along `axis`, where one number stands for a run: which
            of the flat source it is, or `PAD`.
        length: Elements of a run; in the source they are neighbours along the last axis.
        axis: Along which they are neighbours in the tensor; runs of one element may name any.
    """

    numbers: NDArray[np.int64]
    length: int
    axis: int

    @classmethod
    def of_source(cls, shape: Sequence[int]) -> Runs:
        """Number the rows of a tensor, each a run.

        Raises:
            UnrecognisedError: If they are too many.
        """
        if not shape:
            return cls(np.zeros((), np.int64), 1, 0)
        length = max(shape[-1], 1)
        numbers = np.arange(_checked(math.prod(shape) // length))
        return cls(numbers.reshape(*shape[:-1], shape[-1] // length), length, len(shape) - 1)

    def split(self, length: int) -> Runs:
        """Split each run into shorter ones, of a length that divides its own.

        Raises:
            UnrecognisedError: If these are too many.
        """
        parts = self.length // length
        if parts == 1:
            return self
        _checked(self.numbers.size * parts)
        numbers = self.numbers[..., None] * parts + np.arange(parts)
        numbers[self.numbers == PAD] = PAD
        shape = list(self.numbers.shape)
        shape[self.axis] *= parts
        return Runs(np.moveaxis(numbers, -1, self.axis + 1).reshape(shape), length, self.axis)

    def elements(self) -> NDArray[np.int64]:
        """Give the place of each element in the flat source, in the tensor's shape.

        Raises:
            UnrecognisedError: If these are too many.
        """
        return self.split(1).numbers

    def reshape(self, shape: Sequence[int]) -> Runs:
        """Give the same elements, in the same order, another shape."""
        runs = self._along_rows()
        if not shape:
            return Runs(runs.elements().reshape(()), 1, 0)
        runs = runs.split(math.gcd(runs.length, shape[-1]))
        numbers = runs.numbers.reshape(*shape[:-1], shape[-1] // runs.length)
        return Runs(numbers, runs.length, len(shape) - 1)

    def transpose(self, order: Sequence[int]) -> Runs:
        """Put the axes into another order."""
        axis = list(order).index(self.axis) if order else 0
        return Runs(self.numbers.transpose(order), self.length, axis)

    def rows(self) -> tuple[NDArray[np.int64], int]:
        """Give the runs of each row, `[rows, runs]`, and the length of a run."""
        runs = self._along_rows()
        *leading, last = runs.numbers.shape or (1,)
        return runs.numbers.reshape(math.prod(leading), last), runs.length

    def are_all_in_order(self) -> bool:
        """Tell whether the tensor holds the source's elements in their order."""
        numbers = self._along_rows().numbers.reshape(-1)
        return np.array_equal(numbers, np.arange(numbers.size))

    def _along_rows(self) -> Runs:
        """Give runs along the last axis."""
        last = max(self.numbers.ndim - 1, 0)
        return self if self.axis == last else Runs(self.elements(), 1, last)


def _checked(count: int) -> int:
    if count > _MOST_NUMBERS:
        raise UnrecognisedError(f"one of its tensors falls into {count} parts, too many to follow")
    return count
