"""The way of the heads' results back to the map: put together, projected, put back in place."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeattn.graph.fusion.channels import is_per_channel
from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.moves import Moves, is_move
from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.fusion.projection import find_projection
from edgeattn.graph.fusion.runs import PAD
from edgeattn.graph.fusion.token_maps import TokenMap
from edgeattn.graph.nodes import is_standard


class Readers:
    """Who reads the data of each tensor of a graph; its size alone does not count."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            if not is_standard(node, "Shape", "Size"):
                for name in set(node.input):
                    self._readers[name].append(node)
        self._outputs = {value.name for value in graph.output}

    def all(self, name: str) -> list[onnx.NodeProto]:
        """List the nodes that read a tensor."""
        return self._readers[name]

    def are_inside(self, name: str) -> bool:
        """Tell whether nodes of the graph alone read a tensor, at least one."""
        return bool(self._readers[name]) and name not in self._outputs


@dataclass(frozen=True)
class Output:
    """Where the results stand in the map's order.

    Attributes:
        name: The tensor, `[B, H, W, C]`, or with fewer axes in the same order; of windows that are
            maps of their own with the axes of the tensor that attends.
        rank: Its number of axes.
        steps: Nodes that work on each token by itself, from the heads' results to it.
    """

    name: str
    rank: int
    steps: tuple[onnx.NodeProto, ...]


def find_outputs(
    result: str,
    row_token: NDArray[np.int64],
    row_head: NDArray[np.int64],
    source: TokenMap,
    moves: Moves,
    probe: Probe,
    readers: Readers,
) -> tuple[Output, ...]:
    """Follow the heads' results to where they stand in the map's order.

    At a size that needs no padding, they do so before what is padded is cut off, and after it.

    Args:
        result: The tensor, `[..., places, head_dim]`.
        row_token: `[rows, places]`: token of all maps at each place, or `PAD`.
        row_head: `[rows]`: head of each row.
        source: The tensor whose tokens attend.
        moves: Follows elements.
        probe: The graph at that size.
        readers: Who reads what.

    Returns:
        The tensors that hold them in this order, the first one first.

    Raises:
        UnrecognisedError: If none does.
    """
    head_dim = (probe.shape(result) or (0,))[-1]
    num_heads = int(row_head.max()) + 1
    held = _Rows(
        head_dim, row_token.reshape(-1), np.repeat(row_head, row_token.shape[1]) * head_dim
    )
    start, width, name = result, num_heads * head_dim, result
    found: list[Output] = []
    steps: list[onnx.NodeProto] = []
    batch, rows, cols = source.shape[:3]
    layouts = {(batch, rows, cols), (batch, rows * cols), (batch * rows * cols,)}
    if source.layout == "windows":
        layouts = {(probe.shape(source.name) or ())[:-1]}
    while True:
        shape = probe.shape(name)
        if shape is not None and shape[-1] == width and shape[:-1] in layouts:
            order = _row_tokens(name, start, held, moves)
            if order is not None and np.array_equal(order, np.arange(batch * rows * cols)):
                found.append(Output(name, len(shape), tuple(steps)))
        moved = _moved_on(name, probe, readers)
        if moved:
            name = moved
            continue
        if not readers.are_inside(name) or len(readers.all(name)) > 1:
            ending = "its result is read before it stands in its tokens' order"
            break
        (node,) = readers.all(name)
        if shape is None or shape[-1] != width or not _works_on_tokens(node, name, probe):
            ending = f"its result goes into {node.op_type} before it stands in its tokens' order"
            break
        order = _row_tokens(name, start, held, moves)
        if order is None:
            ending = "its heads are not put together token by token"
            break
        name = start = node.output[0]
        width = (probe.shape(name) or (0,))[-1]
        held = _Rows(width, order, np.zeros_like(order))
        steps.append(node)
    if not found:
        raise UnrecognisedError(ending)
    return tuple(found)


def _moved_on(name: str, probe: Probe, readers: Readers) -> str:
    """Name the tensor that all readers of one together move it to; empty if there is none.

    A roll cuts a tensor into parts and joins them again.
    """
    reached, open_ends = {name}, {name}
    absorbed: set[int] = set()
    while True:
        ready = [
            node
            for end in sorted(open_ends)
            for node in readers.all(end)
            if id(node) not in absorbed
            and readers.are_inside(end)
            and is_move(node, probe, reached)
        ]
        if not ready:
            return ""
        absorbed.update(map(id, ready))
        reached.update(output for node in ready for output in node.output if output)
        open_ends = {
            one
            for one in reached
            if not readers.are_inside(one)
            or any(id(node) not in absorbed for node in readers.all(one))
        }
        if len(open_ends) == 1 and name not in open_ends:
            return open_ends.pop()


@dataclass(frozen=True)
class _Rows:
    """Channels side by side in the rows of a tensor.

    Attributes:
        width: Channels of a row.
        token: `[rows]`: token of all maps that they are of, or `PAD`.
        channel: `[rows]`: the first one.
    """

    width: int
    token: NDArray[np.int64]
    channel: NDArray[np.int64]


def _row_tokens(name: str, start: str, held: _Rows, moves: Moves) -> NDArray[np.int64] | None:
    """Give the token of each row of a tensor; `None` if rows do not hold the channels of one.

    Args:
        name: The tensor.
        start: One that it is moved from.
        held: What the rows of that one hold.
        moves: Follows elements.
    """
    traced = moves.trace(name, stop=start)
    if traced.source != start or traced.factor != 1 or traced.normalized:
        return None
    numbers, length = traced.runs.rows()
    if (numbers == PAD).any():
        return None
    row, part = np.divmod(numbers, held.width // length)
    tokens, channels = held.token[row], held.channel[row] + part * length
    same = (tokens == tokens[:, :1]).all()
    same = same and (channels == np.arange(numbers.shape[1]) * length).all()
    return tokens[:, 0] if same else None


def _works_on_tokens(node: onnx.NodeProto, name: str, probe: Probe) -> bool:
    """Tell whether a node is part of a linear layer, or scales channels."""
    found = find_projection(node.output[0], probe)
    return is_per_channel(node, name, probe) or (found is not None and found.input == name)
