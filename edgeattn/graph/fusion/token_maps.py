"""Tensors that the windows of an attention may be cut out of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeattn.graph.fusion.channels import is_per_channel
from edgeattn.graph.fusion.heads import Operand
from edgeattn.graph.fusion.moves import Moves, Traced
from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.fusion.runs import PAD
from edgeattn.graph.nodes import attribute, is_standard

# `map`: [B, H, W, C]; `sequence`: [B, L, C], one row; `list`: [B, L, C], rows are what the windows
# tell; `windows`: [..., N, C], each window a map of its own.
Layout = Literal["map", "sequence", "list", "windows"]


@dataclass(frozen=True)
class TokenMap:
    """A tensor whose tokens attend.

    Attributes:
        name: The tensor.
        layout: How tokens stand in it.
        shape: As a map, B, H, W, C.
        is_projected: Whether it holds queries, keys and values already.
        tokens: Token of all maps together that each row of a source is, or `PAD`.
        has_padding: Whether rows are padded.
        norms: Nodes that work on each token between the tensor and its projection.
        pads_normed: Whether it is what these nodes make that is padded, and not what they read.
    """

    name: str
    layout: Layout
    shape: tuple[int, int, int, int]
    is_projected: bool
    tokens: NDArray[np.int64]
    has_padding: bool
    norms: tuple[onnx.NodeProto, ...] = ()
    pads_normed: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.shape[1], self.shape[2]


def token_maps(
    operand: Operand, operand_name: str, moves: Moves, probe: Probe
) -> Iterator[TokenMap]:
    """Propose tensors that the windows may be cut out of, those that need no reshape first.

    Args:
        operand: The queries.
        operand_name: The tensor that they are.
        moves: Follows elements.
        probe: The graph at that size.
    """
    tensors = []
    for found in _tensors(operand, operand_name, moves, probe):
        tensors.append(found)
        yield found
    for found in tensors:
        if found.layout == "sequence":
            yield from _in_rows(found, operand)
    for found in tensors:
        yield from _as_windows(found, operand)


def _tensors(operand: Operand, operand_name: str, moves: Moves, probe: Probe) -> Iterator[TokenMap]:
    """List maps and lists: before the projection, behind it, before norms of windows."""
    if operand.projection is not None:
        source = operand.projection.input
        for name in moves.chain(source):
            rows = rows_of(moves.trace(source, stop=name), name, probe)
            if rows is not None:
                yield from _token_map(name, rows, probe)
    source_shape = probe.shape(operand.source)
    assert source_shape is not None  # it has been traced
    for name in moves.chain(operand_name):
        shape = probe.shape(name)
        if shape and shape[-1] == source_shape[-1]:
            rows = rows_of(moves.trace(name, stop=operand.source), operand.source, probe)
            inverse = None if rows is None else _inverse(rows, source_shape)
            if inverse is not None:
                for found in _token_map(name, inverse, probe):
                    yield dataclasses.replace(found, is_projected=True)
    if operand.projection is not None:
        yield from _before_norms(operand.projection.input, moves, probe)


def _before_norms(source: str, moves: Moves, probe: Probe) -> Iterator[TokenMap]:
    """Go on where each token of the windows is worked on by itself, which may be done before."""
    normed = moves.trace(source)
    behind = rows_of(normed, normed.source, probe)
    norms: list[onnx.NodeProto] = []
    name = normed.source
    while (reads := _reads_token(name, probe)) is not None:
        norms.insert(0, probe.producer[name])
        name = reads
    if not norms or behind is None:
        return
    for earlier in moves.chain(name):
        before = rows_of(moves.trace(name, stop=earlier), earlier, probe)
        if before is None:
            continue
        pads_normed = bool((behind == PAD).any())
        if pads_normed and (before == PAD).any():
            continue  # two kinds of padded tokens
        rows = np.where(behind == PAD, PAD, before[behind])
        for found in _token_map(earlier, rows, probe):
            yield dataclasses.replace(found, norms=tuple(norms), pads_normed=pads_normed)


def _reads_token(name: str, probe: Probe) -> str | None:
    """Name what a node reads that makes each token of `name` of the same token of it."""
    node = probe.producer.get(name)
    shape = probe.shape(name)
    if node is None or not shape:
        return None
    unknown = [one for one in node.input if one and not probe.is_known(one)]
    if len(unknown) != 1 or probe.shape(unknown[0]) != shape:
        return None
    if is_standard(node, "LayerNormalization"):
        axis = attribute(node, "axis", -1)
        return unknown[0] if axis in (-1, len(shape) - 1) and name == node.output[0] else None
    return unknown[0] if is_per_channel(node, unknown[0], probe) else None


def rows_of(traced: Traced, source: str, probe: Probe) -> NDArray[np.int64] | None:
    """Give the row of a source that each row of a tensor is; `None` if rows are no whole ones."""
    shape = probe.shape(source)
    if traced.source != source or traced.factor != 1 or traced.normalized:
        return None
    if not shape or 0 in shape:
        return None
    numbers, length = traced.runs.rows()
    parts = shape[-1] // length
    if numbers.shape[1] != parts:
        return None
    rows, first = np.divmod(numbers[:, 0], parts)
    pad = numbers[:, 0] == PAD
    expected = np.where(pad[:, None], PAD, numbers[:, :1] + np.arange(parts))
    if (first[~pad] != 0).any() or (numbers != expected).any():
        return None
    return np.where(pad, PAD, rows)


def _inverse(rows: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Turn rows of a source by token into tokens by row; `None` unless each row is one token."""
    count = int(np.prod(shape[:-1], dtype=np.int64))
    if (rows == PAD).any() or len(rows) != count or len(np.unique(rows)) != count:
        return None
    inverse = np.empty(count, np.int64)
    inverse[rows] = np.arange(count)
    return inverse


def _token_map(name: str, rows: NDArray[np.int64], probe: Probe) -> Iterator[TokenMap]:
    """Give a tensor as a map if it has the axes of one."""
    shape = probe.shape(name)
    if shape is None or len(shape) not in (3, 4):
        return
    batch, height, columns, channels = shape if len(shape) == 4 else (shape[0], 1, *shape[1:])
    padded = bool((rows == PAD).any())
    layout: Layout = "map" if len(shape) == 4 else "sequence"
    yield TokenMap(name, layout, (batch, height, columns, channels), False, rows, padded)


def _in_rows(tokens: TokenMap, operand: Operand) -> Iterator[TokenMap]:
    """Give a list of tokens the rows that its windows tell.

    Exporters join the reshape of a list to a map and that of the map to windows; no tensor is the
    map then. A window's second row begins where the first one's tokens break off.
    """
    batch, _, length, channels = tokens.shape
    places = np.where(operand.row[0] == PAD, PAD, tokens.tokens[operand.row[0]])
    breaks = np.flatnonzero(np.diff(places) != 1)
    if (places == PAD).any() or not len(breaks):
        return
    columns = int(places[breaks[0] + 1] - places[0])
    if columns > 0 and length % columns == 0:
        shape = (batch, length // columns, columns, channels)
        yield dataclasses.replace(tokens, layout="list", shape=shape)


def _as_windows(tokens: TokenMap, operand: Operand) -> Iterator[TokenMap]:
    """Take each window of a tensor that is cut already for a map of its own.

    Such a network goes on in windows behind the attention: there is no map to put results back to.
    """
    batch, height, columns, channels = tokens.shape
    places = operand.row.shape[1]
    if columns != places or tokens.has_padding:
        return
    for rows in range(2, places):  # one row or column is a sequence
        if places % rows == 0:
            shape = (batch * height, rows, places // rows, channels)
            yield dataclasses.replace(tokens, layout="windows", shape=shape)
