"""Constants with zeros between their values: each run of channels made longer."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeattn.graph.constants import Constants
from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import attribute, is_standard, node_label

_MOVES = ("Cast", "Identity", "Transpose")


def pad_runs(
    values: NDArray[Any], axis: int, run: int, padded: int, fill: float = 0.0
) -> NDArray[Any]:
    """Make each run of an axis longer: `[a, b, c, d]` in runs of 2 padded to 3: `a b 0 c d 0`.

    Args:
        values: Of any shape; the axis is a multiple of `run` long.
        axis: The axis.
        run: Length of a run.
        padded: Its length then.
        fill: What is put behind each.
    """
    before, count, after = values.shape[:axis], values.shape[axis] // run, values.shape[axis + 1 :]
    longer = np.full((*before, count, padded, *after), fill, values.dtype)
    longer[(slice(None),) * (axis + 1) + (slice(run),)] = values.reshape(
        *before, count, run, *after
    )
    return longer.reshape(*before, count * padded, *after)


class PaddedConstants:
    """Makes padded copies of a graph's constants; the constants themselves stay, for others.

    Args:
        model: New initializers are added to it; it is not changed otherwise.
        names: Of its graph.

    Attributes:
        constants: Those of the graph as it was.
        nodes: New nodes, by the output of the node that they are to follow: dequantized weights,
            with the casts and transposes behind those.
    """

    def __init__(self, model: onnx.ModelProto, names: FreshNames) -> None:
        self.constants = Constants(model)
        self.nodes: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._graph = model.graph
        self._names = names
        self._producer = {node.output[0]: node for node in model.graph.node}
        self._added: dict[str, NDArray[Any]] = {}
        self._made: dict[tuple[str, int, int, int], str] = {}

    def __contains__(self, name: str) -> bool:
        """Tell whether a tensor is constant."""
        return name in self._added or name in self.constants

    def value(self, name: str) -> NDArray[Any]:
        """Read a constant."""
        return self._added[name] if name in self._added else self.constants.value(name)

    @property
    def added(self) -> set[str]:
        """Names of what was added, which a later copy may have left without a reader."""
        return set(self._added)

    def add(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer under a name like this one."""
        name = self._names.new(name)
        self._added[name] = values
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def can_pad(self, name: str) -> bool:
        """Tell whether zeros can be put into a tensor: it is constant, and so are its integers.

        A dequantized constant has to stay one. Integer 0 stands for the number 0 where the zero
        point is 0, whatever the scale.
        """
        if name not in self or not self._is_dequantized(name):
            return name in self
        node = self._producer[name]
        if is_standard(node, *_MOVES):
            return self.can_pad(node.input[0])
        if not is_standard(node, "DequantizeLinear") or attribute(node, "block_size"):
            return False
        zeros = node.input[2] if len(node.input) > 2 else ""
        return not zeros or not self.value(zeros).any()

    def padded(self, name: str, axis: int, run: int, padded: int) -> str:
        """Make a copy of a constant with zeros behind each run of an axis.

        Args:
            name: The constant, which `can_pad`; asked for twice it is made once.
            axis: The axis.
            run: Length of a run.
            padded: Its length then.

        Returns:
            The copy's name.
        """
        key = (name, axis, run, padded)
        if key not in self._made:
            if not self._is_dequantized(name):
                values = pad_runs(self.value(name), axis, run, padded)
                self._made[key] = self.add(f"{name}_padded", values)
            else:
                self._made[key] = self._repeat(*key)
        return self._made[key]

    def _is_dequantized(self, name: str) -> bool:
        node = self._producer.get(name)
        if node is None:
            return False
        return is_standard(node, "DequantizeLinear") or any(map(self._is_dequantized, node.input))

    def _repeat(self, name: str, axis: int, run: int, padded: int) -> str:
        """Repeat the node that gives a dequantized constant, on padded integers."""
        node = self._producer[name]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if is_standard(node, "DequantizeLinear"):
            self._pad_integers(copy, axis, run, padded)
        else:
            source_axis = axis
            if is_standard(node, "Transpose"):
                perm = attribute(node, "perm") or range(self.value(name).ndim)[::-1]
                source_axis = perm[axis]
            copy.input[0] = self.padded(node.input[0], source_axis, run, padded)
        copy.name = self._names.new(f"{node_label(node)}_padded")
        copy.output[0] = self._names.new(f"{name}_padded")
        self.nodes[name].append(copy)
        self._producer[copy.output[0]] = copy
        self._added[copy.output[0]] = pad_runs(self.value(name), axis, run, padded)
        return copy.output[0]

    def _pad_integers(self, node: onnx.NodeProto, axis: int, run: int, padded: int) -> None:
        """Pad the integers that a DequantizeLinear reads, and scales if the axis has them."""
        integers, scale = (self.value(name) for name in node.input[:2])
        along = attribute(node, "axis")
        is_along = scale.size > 1 and (1 if along is None else along) % integers.ndim == axis
        node.input[0] = self.padded(node.input[0], axis, run, padded)
        if is_along:
            scales = pad_runs(scale, 0, run, padded, 1.0)
            node.input[1] = self.add(f"{node.input[1]}_padded", scales)
            if len(node.input) > 2:
                node.input[2] = self.padded(node.input[2], 0, run, padded)
