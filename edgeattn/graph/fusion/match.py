"""One attention of a graph at one size: what it computes, and of what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeattn.graph.fusion.bias import Bias, split_bias
from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.heads import Operand, read_operand
from edgeattn.graph.fusion.logits import Logits, trace_logits
from edgeattn.graph.fusion.moves import Moves
from edgeattn.graph.fusion.output import Output, Readers, find_outputs
from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.fusion.projection import Projection
from edgeattn.graph.fusion.runs import PAD
from edgeattn.graph.fusion.token_maps import Layout, TokenMap, rows_of, token_maps
from edgeattn.graph.fusion.windows import PlacedWindows, find_windows
from edgeattn.graph.nodes import attribute, is_standard
from edgeattn.spec import Mode, PadMode, ShiftPadOrder

Pads = Literal["tokens", "normed", "projected"]


class _AllToAllError(UnrecognisedError):
    """A node can stand for it, and is not to: nothing was cut into windows."""


@dataclass(frozen=True)
class AttentionNodes:
    """The nodes around one softmax.

    Attributes:
        softmax: The softmax.
        products: Tensors that are products of queries and keys.
        output: The node that multiplies probabilities and values.
    """

    softmax: onnx.NodeProto
    products: frozenset[str]
    output: onnx.NodeProto


@dataclass(frozen=True)
class Match:
    """What an attention computes at one size; `None` stands for what that size does not tell.

    Attributes:
        tokens: The tensor whose tokens attend.
        is_projected: Whether it holds queries, keys and values already.
        layout: How tokens stand in it.
        size: Rows and columns.
        norms: Nodes that work on each token before it is projected.
        projections: Of query, key and value, where the attention is to project.
        channels: Of query, key and value in their sources: `[heads, head_dim]` each.
        window_size: Rows and columns; 0 for a whole axis.
        shift_size: Likewise, per axis.
        mode: How windows are cut.
        order: Whether the map is padded before or after it is rolled.
        pad_mode: What padded keys do.
        pads: What is padded, with zeros: `tokens`, what the norms make of them, or keys and values.
        table: `[heads, entries]` position bias; NaN at positions that this size does not tell.
        mask_value: Added where a shift brought tokens together.
        scale: `[heads]`: factor of query times key.
        is_cosine: Whether both are normalized.
        outputs: Tensors in which the result stands.
    """

    tokens: str
    is_projected: bool
    layout: Layout
    size: tuple[int, int]
    norms: tuple[onnx.NodeProto, ...]
    projections: tuple[Projection | None, ...]
    channels: tuple[NDArray[np.int64], ...]
    window_size: tuple[int, int]
    shift_size: tuple[int | None, int | None]
    mode: Mode
    order: ShiftPadOrder | None
    pad_mode: PadMode | None
    pads: Pads
    table: NDArray[np.float32] | None
    mask_value: float | None
    scale: NDArray[np.float64]
    is_cosine: bool
    outputs: tuple[Output, ...]


def match_attention(
    written: AttentionNodes,
    probe: Probe,
    moves: Moves,
    readers: Readers,
    opset: int,
    *,
    global_attention: bool,
) -> Match:
    """Recognise an attention.

    Args:
        written: The attention.
        probe: The graph at one size.
        moves: Follows elements there.
        readers: Who reads what.
        opset: Version of the ONNX standard.
        global_attention: Whether to take attention of every token to every token too.

    Raises:
        UnrecognisedError: If no attention node can stand for it.
    """
    product, logits = _logits(written, probe, opset)
    node = probe.producer[product]
    query = read_operand(moves.trace(node.input[0]), probe)
    key = read_operand(moves.trace(node.input[1]), probe, channels_first=True)
    _check_probabilities(written, moves, probe)
    value = read_operand(moves.trace(written.output.input[1]), probe)
    operands = (query, key, value)
    alike = query.row.shape == key.row.shape == value.row.shape
    if not alike or len(query.row) != math.prod(logits.shape[:-2]):
        raise UnrecognisedError("queries and keys are not as many")
    if value.normalized or value.factor != 1 or query.normalized != key.normalized:
        raise UnrecognisedError("its values are scaled, or only queries or keys normalized")
    head, channels = _heads(operands)
    scale = _scales(logits.row_factors(), head, len(channels[0])) * query.factor * key.factor
    if not query.normalized and not np.allclose(scale, scale[0], rtol=1e-6, atol=0):
        raise UnrecognisedError("its heads have different softmax scales")
    reason = UnrecognisedError("its tokens come from no map [B, H, W, C]")
    is_whole = None
    for source in token_maps(query, node.input[0], moves, probe):
        if is_whole is not None and source.layout == "windows":
            break  # it would be taken for a window that was cut before
        try:
            tokens = _tokens(source, operands, moves, probe)
            placed = find_windows(tokens, source.shape[0], source.size)
            _check_coverage(placed, head, len(tokens))
            bias = split_bias(logits, placed, head, len(channels[0]))
            outputs = find_outputs(
                written.output.output[0], tokens, head, source, moves, probe, readers
            )
            return _match(
                source, operands, channels, placed, bias, scale, outputs, global_attention
            )
        except _AllToAllError as err:
            reason = is_whole = err
        except UnrecognisedError as err:
            if is_whole is None and source.layout in ("map", "sequence"):
                reason = err  # the others are but ways to look at these
    raise reason


def _logits(written: AttentionNodes, probe: Probe, opset: int) -> tuple[str, Logits]:
    name = written.softmax.input[0]
    shape = probe.shape(name)
    if shape is None or len(shape) < 3:
        raise UnrecognisedError("the size of its logits is not known before the graph runs")
    axis = attribute(written.softmax, "axis", -1)
    if axis not in (-1, len(shape) - 1):
        raise UnrecognisedError("its softmax does not go along the keys")
    product, logits = trace_logits(name, set(written.products), probe, opset)
    if not is_standard(probe.producer[product], "MatMul"):
        raise UnrecognisedError("its queries and keys are multiplied by no MatMul")
    return product, logits


def _check_probabilities(written: AttentionNodes, moves: Moves, probe: Probe) -> None:
    if not is_standard(written.output, "MatMul"):
        raise UnrecognisedError("its probabilities and values are multiplied by no MatMul")
    name, softmax = written.output.input[0], written.softmax.output[0]
    while name != softmax:
        traced = moves.trace(name, stop=softmax)
        straight = traced.runs.are_all_in_order()
        name = traced.source
        if name != softmax:
            name = _behind_guard(name, probe)
        if not name or traced.factor != 1 or not straight:
            raise UnrecognisedError("its probabilities are changed before they weigh the values")


def _behind_guard(name: str, probe: Probe) -> str:
    """Give what a tensor holds but for zeros in the place of NaN; empty if it is something else.

    Exporters give zeros to rows that are masked altogether. An attention node has no such rows: in
    the windows that it knows each token sees itself at least.
    """
    node = probe.producer.get(name)
    if node is None or not is_standard(node, "Where"):
        return ""
    condition, zero, guarded = node.input
    is_nan = probe.producer.get(condition)
    if is_nan is None or not is_standard(is_nan, "IsNaN") or is_nan.input[0] != guarded:
        return ""
    return guarded if probe.is_known(zero) and not probe.value(zero).any() else ""


def _heads(
    operands: tuple[Operand, ...],
) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], ...]]:
    """Number the heads by their channels in the value, which are those of the result."""
    query, key, value = operands
    together = np.concatenate([value.channel, query.channel, key.channel], axis=1)
    unique, head = np.unique(together, axis=0, return_inverse=True)
    dims = np.cumsum([value.channel.shape[1], query.channel.shape[1]])
    of_value, of_query, of_key = np.split(unique, dims, axis=1)
    if len(np.unique(of_value, axis=0)) != len(unique):
        raise UnrecognisedError("heads share their values")
    if of_value.shape[1] != of_query.shape[1]:
        raise UnrecognisedError("values have other channels than queries and keys")
    return head.reshape(-1), (of_query, of_key, of_value)


def _scales(
    factors: NDArray[np.float64], head: NDArray[np.int64], num_heads: int
) -> NDArray[np.float64]:
    scales = np.array([factors[head == number][0] for number in range(num_heads)])
    if (scales[head] != factors).any() or (scales <= 0).any():
        raise UnrecognisedError("its logits have different factors")
    return scales


def _tokens(
    source: TokenMap, operands: tuple[Operand, ...], moves: Moves, probe: Probe
) -> NDArray[np.int64]:
    """Give the token at each place, which must be one and the same for query, key and value."""
    found = []
    for operand in operands:
        if source.is_projected:
            if operand.source != operands[0].source:
                raise UnrecognisedError("queries, keys and values are in several tensors")
            of_row = source.tokens
        else:
            if operand.projection is None:
                raise UnrecognisedError("keys or values are made by no linear layer")
            of_row = source.tokens
            if operand.projection.input != operands[0].projection_input:
                if source.norms:
                    raise UnrecognisedError("queries, keys and values are in several tensors")
                traced = moves.trace(operand.projection.input, stop=source.name)
                rows = rows_of(traced, source.name, probe)
                if rows is None:
                    raise UnrecognisedError("queries and keys are made of different tensors")
                of_row = rows
        found.append(np.where(operand.row == PAD, PAD, of_row[operand.row]))
    if any(not np.array_equal(found[0], other) for other in found[1:]):
        raise UnrecognisedError("queries and keys are different tokens")
    return found[0]


def _check_coverage(placed: PlacedWindows, head: NDArray[np.int64], rows: int) -> None:
    place = np.stack([placed.batch, placed.window, head])
    if np.unique(place, axis=1).shape[1] != rows:
        raise UnrecognisedError("a window is attended to more than once")


def _match(
    source: TokenMap,
    operands: tuple[Operand, ...],
    channels: tuple[NDArray[np.int64], ...],
    placed: PlacedWindows,
    bias: Bias,
    scale: NDArray[np.float64],
    outputs: tuple[Output, ...],
    global_attention: bool,
) -> Match:
    windows = placed.windows
    is_single = len(windows.tokens) == 1
    # A map's one window is a small map's; a sequence that is all one window was never cut.
    is_global = is_single and (bias.table is None or source.layout == "sequence")
    if is_global and not global_attention:
        raise _AllToAllError("every token attends to every token")
    padded = bool((windows.tokens == PAD).any())
    counts = [-(-length // w) for length, w in zip(source.size, windows.window_size, strict=True)]
    shifted = any(windows.shift_size)
    return Match(
        source.name,
        source.is_projected,
        source.layout,
        source.size,
        source.norms,
        tuple(None if source.is_projected else operand.projection for operand in operands),
        channels,
        (0, 0) if is_single and bias.table is None else windows.window_size,
        (
            windows.shift_size[0] if counts[0] > 1 else None,
            windows.shift_size[1] if counts[1] > 1 else None,
        ),
        windows.mode,
        windows.order if padded and shifted else None,
        ("mask" if bias.masks_pads else "bias_kv") if padded else None,
        _pads(source),
        bias.table,
        bias.mask_value if shifted else None,
        scale,
        operands[0].normalized,
        outputs,
    )


def _pads(source: TokenMap) -> Pads:
    if not source.has_padding:
        return "projected"
    return "normed" if source.pads_normed else "tokens"
