"""Queries, keys and values: of which row and which channels of a tensor each element is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.moves import Traced, known_shape
from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.fusion.projection import Projection, find_projection
from edgeattn.graph.fusion.runs import PAD


@dataclass(frozen=True)
class Operand:
    """One of query, key and value, as a set of rows of tokens.

    Attributes:
        source: Tensor whose last axis holds the channels.
        row: `[rows, places]`: row of the source, or `PAD`.
        channel: `[rows, head_dim]`: channel of the source.
        factor: By which it was multiplied.
        normalized: Whether it was divided by its norm.
        projection: What makes the source; `None` if no linear layer does.
    """

    source: str
    row: NDArray[np.int64]
    channel: NDArray[np.int64]
    factor: float
    normalized: bool
    projection: Projection | None

    @property
    def projection_input(self) -> str:
        """What the linear layer projects; empty without one."""
        return self.projection.input if self.projection is not None else ""


def read_operand(traced: Traced, probe: Probe, *, channels_first: bool = False) -> Operand:
    """Read which token and channels each element of an operand is.

    Args:
        traced: The operand, `[..., places, head_dim]`.
        probe: The graph at that size.
        channels_first: Whether it is `[..., head_dim, places]`.

    Raises:
        UnrecognisedError: If the elements of a place are not channels of one token.
    """
    shape = known_shape(traced.source, probe)
    if not shape:
        raise UnrecognisedError(f"{traced.source} has no channels")
    runs = traced.runs
    if runs.numbers.ndim < 2 or not runs.numbers.size or 0 in shape:
        raise UnrecognisedError("one of its tensors is a vector, or empty")
    if channels_first:
        *leading, last, places = range(runs.numbers.ndim)
        runs = runs.transpose([*leading, places, last])
    places = runs.numbers.shape[-2]
    number, length = runs.rows()
    number = number.reshape(-1, places, number.shape[-1])
    row, part = np.divmod(number, shape[-1] // length)
    pad = number == PAD
    row[pad] = PAD
    if (row != row[:, :, :1]).any():
        raise UnrecognisedError("its heads are made of channels of several tokens")
    # A place that is padded has no channels; the others of its window have.
    first = np.argmax(~pad[:, :, 0], axis=1)
    expected = np.take_along_axis(part, first[:, None, None], axis=1)
    if ((part != expected) & ~pad).any() or pad[:, :, 0].all(axis=1).any():
        raise UnrecognisedError("its tokens do not have the same channels")
    channel = expected[:, 0, :, None] * length + np.arange(length)
    return Operand(
        traced.source,
        row[:, :, 0],
        channel.reshape(len(channel), -1),
        traced.factor,
        traced.normalized,
        find_projection(traced.source, probe),
    )
