"""Move range from the channels of activations to the weights that read them, exactly.

One scale per activation tensor is set by its largest channel, and what the others have is rounded
to that channel's steps; a weight has a scale per *output* channel, so factors on its input channels
cost it less. Where a normalization or a layer writes channels that only layers with constant
weights read (`edgeattn.graph.channel_groups`), channel j is divided by

    s_j = amax(X_j)^alpha / amax(W_j)^(1 - alpha)

where it is written and the weights that read it are multiplied by s_j. The factors are rounded to
powers of two: every product and sum of the graph is then the same number as before, up to that
power, so the float graph computes the same bits. Their geometric mean is about 1, and more where
the largest magnitude would grow otherwise: what fits FP16 before fits after.

References:
    Xiao et al., SmoothQuant, ICML 2023, eq. 4 (arXiv:2211.10438). Nagel et al., Data-Free
    Quantization, ICCV 2019, section 4.1 (arXiv:1906.04721): the same between two layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeattn.errors import SpecError, TableError
from edgeattn.graph.channel_groups import NORM_OPS, ChannelGroup, find_channel_groups
from edgeattn.graph.constants import Constants, drop_orphans, used_names
from edgeattn.graph.linear_layers import channel_axis
from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import is_standard, node_label
from edgeattn.graph.placement import Decision, Recipe, place_qdq

_MAX_EXPONENT = 15  # of a factor: FP16 still holds what it held, but for extremes
_TINY = np.finfo(np.float32).tiny

_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BalancedGraph:
    """A graph whose channels are balanced.

    Attributes:
        model: It computes what the graph before it did.
        amax: Largest magnitude now of each observed tensor whose channels were scaled.
        decisions: For each normalization, and each layer that was balanced, what was done or why
            nothing was.
    """

    model: onnx.ModelProto
    amax: dict[str, float]
    decisions: list[Decision]


def balance_channels(
    model: onnx.ModelProto,
    channel_amax: Mapping[str, _Floats],
    alpha: float = 0.5,
    recipe: Recipe = "linear",
    keep_float: Collection[str] = (),
) -> BalancedGraph:
    """Balance the channels of activations with the weights that read them.

    Args:
        model: A float graph; not changed.
        channel_amax: Largest magnitude of each channel, `[C]` float32, of the tensors that
            `balanceable_channels` names.
        alpha: How much of the range moves to the weights: 0 (the weights' own range goes to the
            activations) to 1 (all of it).
        recipe: How much will be quantized; where that is no reader, channels stay as they are.
        keep_float: Names of nodes that will not be.

    Raises:
        GraphError: As `place_qdq`.
        SpecError: As `place_qdq`, or if `alpha` is out of range.
        TableError: If the maxima of a tensor's channels are missing or not one for each.
    """
    if not 0 <= alpha <= 1:
        raise SpecError(
            f"the balance is {alpha}; expected 0 to 1",
            "0.5 shares the range evenly between activations and weights",
        )
    quantized = place_qdq(model, recipe, keep_float).linears
    balanced = onnx.ModelProto()
    balanced.CopyFrom(model)
    balancer = _Balancer(balanced, place_qdq(model, "full").activations, channel_amax, alpha)
    for group in find_channel_groups(model):
        balancer.balance(group, quantized)
    balancer.write()
    return BalancedGraph(balanced, balancer.amax, balancer.decisions)


class _Balancer:
    """Scales the constants of a graph group by group, then writes those that changed."""

    def __init__(
        self,
        model: onnx.ModelProto,
        observed: Collection[str],
        channel_amax: Mapping[str, _Floats],
        alpha: float,
    ) -> None:
        self.amax: dict[str, float] = {}
        self.decisions: list[Decision] = []
        self._model = model
        self._nodes = model.graph.node
        self._constants = Constants(model)
        self._observed = observed
        self._channel_amax = channel_amax
        self._alpha = alpha
        self._changed: dict[tuple[int, int], _Floats] = {}

    def balance(self, group: ChannelGroup, quantized: Collection[int]) -> None:
        node = self._nodes[group.source]
        obstacle = group.obstacle or (
            "" if any(reader in quantized for reader in group.readers) else "no INT8 layer reads it"
        )
        if obstacle:
            if is_standard(node, *NORM_OPS):
                self._decide(node, f"its channels are not balanced: {obstacle}")
            return
        maxima = self._maxima(group)
        before = np.max(list(maxima.values()), axis=0)
        factors = balancing_factors(before, self._weight_amax(group), self._alpha)
        with np.errstate(over="ignore", under="ignore"):
            changed = self._scaled(group, factors)
            after = {tensor: amax / factors for tensor, amax in maxima.items()}
        pairs = [(self._value(*key), values) for key, values in changed.items()]
        pairs += [(maxima[tensor], after[tensor]) for tensor in maxima]
        if not all(_is_exact(*pair) for pair in pairs):
            self._decide(node, "its channels are not balanced: float32 could not hold the result")
            return
        self._changed |= changed
        self.amax |= {tensor: float(amax.max()) for tensor, amax in after.items()}
        largest = max(float(amax.max()) for amax in after.values())
        readers = [node_label(self._nodes[index]) for index in group.readers]
        self._decide(
            node,
            f"its {group.size} channels are balanced with {', '.join(readers)}: their largest "
            f"magnitude was {before.max():.4g} and is {largest:.4g}",
        )

    def write(self) -> None:
        """Give the nodes their new constants."""
        used_before = used_names(self._model.graph)
        names = FreshNames(self._model.graph)
        written: dict[tuple[str, bytes], str] = {}  # layers may share a weight
        for (index, slot), values in self._changed.items():
            node = self._nodes[index]
            key = (node.input[slot], values.tobytes())
            if key not in written:
                written[key] = names.new(f"{node.input[slot]}_balanced")
                tensor = numpy_helper.from_array(values, written[key])
                self._model.graph.initializer.append(tensor)
            node.input[slot] = written[key]
        drop_orphans(self._model, used_before)

    def _maxima(self, group: ChannelGroup) -> dict[str, _Floats]:
        """Look up the maxima of a group's channels in each tensor that was observed."""
        maxima = {}
        for tensor in group.tensors:
            if tensor in self._observed:
                found = self._channel_amax.get(tensor, np.zeros(0, np.float32))
                if found.size != group.size:
                    raise TableError(
                        f"the largest magnitudes of {found.size} channels of {tensor} are known; "
                        f"balancing wants those of all {group.size}",
                        "calibrate the graph again; imported tables have none",
                    )
                maxima[tensor] = found
        return maxima

    def _weight_amax(self, group: ChannelGroup) -> _Floats:
        """Largest magnitude of the weights that read each channel, `[C]`."""
        readers = ((self._nodes[index], self._value(index, 1)) for index in group.readers)
        return np.max([input_channel_amax(node, weight) for node, weight in readers], axis=0)

    def _scaled(self, group: ChannelGroup, factors: _Floats) -> dict[tuple[int, int], _Floats]:
        """Scale all constants of a group."""
        changed = {}
        for index, slot, trailing in self._written(group):
            divisors = factors.reshape(-1, *[1] * trailing)
            changed[index, slot] = self._value(index, slot) / divisors
        for index in group.readers:
            weight = self._value(index, 1)
            changed[index, 1] = weight * _by_input_channel(self._nodes[index], weight, factors)
        return changed

    def _written(self, group: ChannelGroup) -> Iterator[tuple[int, int, int]]:
        """List what the channels are made of: node, input, and axes after that of the channels."""
        source = self._nodes[group.source]
        is_norm = is_standard(source, *NORM_OPS)
        for slot in range(1, len(source.input)):
            if is_norm or slot > 1:
                trailing = 0
            else:
                weight = self._value(group.source, slot)
                trailing = weight.ndim - 1 - channel_axis(source, weight)[0]
            if source.input[slot]:
                yield group.source, slot, trailing
        for index, slot in group.offsets:
            yield index, slot, -1 - group.tensors[self._nodes[index].output[0]]

    def _value(self, index: int, slot: int) -> _Floats:
        """Read a constant input of a node as it is by now."""
        if (index, slot) in self._changed:
            return self._changed[index, slot]
        return self._constants.value(self._nodes[index].input[slot])

    def _decide(self, node: onnx.NodeProto, reason: str) -> None:
        decision = Decision(node_label(node), node.op_type, node.output[0], False, reason)
        self.decisions.append(decision)


def balancing_factors(channel_amax: _Floats, weight_amax: _Floats, alpha: float) -> _Floats:
    """Choose the factors of one group of channels.

    Args:
        channel_amax: Largest magnitude of each channel of the activation, `[C]`.
        weight_amax: Of the weights that read it, `[C]`.
        alpha: See `balance_channels`.

    Returns:
        `[C]`, powers of two: what the channels are to be divided by. The largest magnitude of all
        does not grow. 1 for channels that are always zero. Channels that no weight uses are made
        no larger than the others.
    """
    factors = np.ones(channel_amax.size, np.float32)
    used = (channel_amax > 0) & (weight_amax > 0)
    if not used.any():
        return factors
    sizes = np.log2(channel_amax[used], dtype=np.float64)
    ideal = alpha * sizes - (1 - alpha) * np.log2(weight_amax[used], dtype=np.float64)
    exponents = np.rint(ideal - ideal.mean())
    growth = np.max(sizes - exponents) - np.max(sizes)
    factors[used] = _power_of_two(exponents + max(0.0, np.ceil(growth)))
    ceiling = (channel_amax / factors)[used].max()
    idle = (channel_amax > ceiling) & (weight_amax == 0)
    factors[idle] = _power_of_two(np.ceil(np.log2(channel_amax[idle] / ceiling)))
    return factors


def input_channel_amax(node: onnx.NodeProto, weight: _Floats) -> _Floats:
    """Largest magnitude of a Conv's, Gemm's or MatMul's weight at each of its input channels."""
    if node.op_type != "Conv":
        return np.abs(weight).max(axis=channel_axis(node, weight)[0])
    kernels = np.abs(weight).reshape(*weight.shape[:2], -1).max(axis=2)
    return kernels.reshape(_groups(node), -1, weight.shape[1]).max(axis=1).reshape(-1)


def _by_input_channel(node: onnx.NodeProto, weight: _Floats, factors: _Floats) -> _Floats:
    """Lay one factor per input channel out so that it broadcasts to a weight."""
    if node.op_type != "Conv":
        return np.expand_dims(factors, channel_axis(node, weight)[0])
    groups = _groups(node)
    per_kernel = np.repeat(factors.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return per_kernel.reshape(*per_kernel.shape, *[1] * (weight.ndim - 2))


def _groups(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _power_of_two(exponents: NDArray[np.float64]) -> _Floats:
    limited = np.clip(exponents, -_MAX_EXPONENT, _MAX_EXPONENT)
    return np.exp2(limited, dtype=np.float32)


def _is_exact(before: _Floats, after: _Floats) -> bool:
    """Tell whether scaling by powers of two lost no bits: none overflowed or became subnormal."""
    lost = (np.abs(after) < _TINY) & (np.abs(before) >= _TINY)
    return bool(np.isfinite(after).all()) and not lost.any()
