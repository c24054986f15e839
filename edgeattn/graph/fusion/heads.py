"""Queries, keys and values: of which token and which channels each element is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.moves import PAD, Moves, Traced
from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.fusion.projection import Projection, find_projection


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
    index = np.swapaxes(traced.index, -1, -2) if channels_first else traced.index
    index = index.reshape(-1, *index.shape[-2:])
    shape = probe.shape(traced.source)
    if not shape:
        raise UnrecognisedError(f"{traced.source} has no channels")
    row, channel = np.divmod(index, shape[-1])
    pad = index == PAD
    row[pad] = PAD
    if (row != row[:, :, :1]).any():
        raise UnrecognisedError("its heads are made of channels of several tokens")
    # A place that is padded has no channels; the others of its window have.
    first = np.argmax(~pad[:, :, 0], axis=1)
    expected = np.take_along_axis(channel, first[:, None, None], axis=1)
    if ((channel != expected) & ~pad).any() or pad[:, :, 0].all(axis=1).any():
        raise UnrecognisedError("its tokens do not have the same channels")
    return Operand(
        traced.source,
        row[:, :, 0],
        expected[:, 0],
        traced.factor,
        traced.normalized,
        find_projection(traced.source, probe),
    )


@dataclass(frozen=True)
class TokenMap:
    """A tensor whose tokens attend.

    Attributes:
        name: The tensor, `[B, H, W, C]` or `[B, L, C]`.
        shape: Its shape, B, H, W, C; a sequence has one row.
        is_projected: Whether it holds queries, keys and values already.
        tokens: Token of all maps together that each row of a source is, or `PAD`.
        has_padding: Whether rows are padded.
    """

    name: str
    shape: tuple[int, int, int, int]
    is_projected: bool
    tokens: NDArray[np.int64]
    has_padding: bool

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.shape[1], self.shape[2]


def token_maps(
    operand: Operand, operand_name: str, moves: Moves, probe: Probe, *, sequences: bool
) -> Iterator[TokenMap]:
    """Propose tensors that the windows may be cut out of, the earliest first.

    Args:
        operand: The queries.
        operand_name: The tensor that they are.
        moves: Follows elements.
        probe: The graph at that size.
        sequences: Whether tensors `[B, L, C]` are looked at too.
    """
    source_shape = probe.shape(operand.source)
    assert source_shape is not None  # it has been traced
    if operand.projection is not None:
        for name in moves.chain(operand.projection.input):
            yield from _token_map(
                name, operand.projection.input, False, moves, probe, sequences=sequences
            )
    for name in moves.chain(operand_name):
        shape = probe.shape(name)
        if shape and shape[-1] == source_shape[-1]:
            yield from _token_map(
                name, operand.source, True, moves, probe, sequences=sequences, backwards=True
            )


def _token_map(
    name: str,
    source: str,
    is_projected: bool,
    moves: Moves,
    probe: Probe,
    *,
    sequences: bool,
    backwards: bool = False,
) -> Iterator[TokenMap]:
    """Give a tensor as a map if its rows are those of the source, or the source is made of them."""
    shape = probe.shape(name)
    if shape is None or len(shape) not in ((3, 4) if sequences else (4,)):
        return
    full = shape if len(shape) == 4 else (shape[0], 1, *shape[1:])
    traced = moves.trace(name, stop=source) if backwards else moves.trace(source, stop=name)
    if traced.factor != 1 or traced.normalized:
        return
    if traced.source != (source if backwards else name):
        return
    index = traced.index.reshape(-1, traced.index.shape[-1])
    width = probe.shape(traced.source)
    if not width or width[-1] != index.shape[1]:
        return
    tokens, first = np.divmod(index[:, 0], width[-1])
    pad = index[:, 0] == PAD
    expected = np.where(pad[:, None], PAD, index[:, :1] + np.arange(width[-1]))
    if (first[~pad] != 0).any() or (index != expected).any():
        return
    tokens = np.where(pad, PAD, tokens)
    if backwards:  # rows of the source, by token of the map; the other way round is wanted
        rows = int(np.prod(width[:-1], dtype=np.int64))
        if pad.any() or len(tokens) != rows or len(np.unique(tokens)) != rows:
            return
        inverse = np.empty(rows, np.int64)
        inverse[tokens] = np.arange(rows)
        tokens = inverse
    batch, height, columns, channels = full
    yield TokenMap(name, (batch, height, columns, channels), is_projected, tokens, bool(pad.any()))
