"""Compute FP16 and BF16 graphs in float32 and round every result: what the graph says, on any CPU.

ONNX Runtime has few CPU kernels for half types. Where it has none it computes in float32 and, from
one such node to the next, does not round: `Sqrt(x * x)` of FP16 gave 300 for 300, though 90,000 is
beyond FP16. So the rounding is written into the graph. Products are taken of half numbers and
added up in float32, as matrix units do.

The result of DequantizeLinear is not rounded: where its readers are integer kernels it never
exists, and elsewhere it is exact but for the last digit of integer times scale.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeattn.graph.constants import (
    captured_names,
    constant_tensors,
    drop_orphans,
    subgraphs,
    used_names,
)
from edgeattn.graph.half_placement import MOVES
from edgeattn.graph.half_slots import FOLLOWERS
from edgeattn.graph.half_types import HALF_TYPES
from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import is_standard, is_standard_domain
from edgeattn.graph.shapes import infer_types

# Constants of up to this many values, scales among them, are stored in float32, for readers that
# want to see them; larger ones keep their size.
_MAX_WIDE = 4096

_HALVES = frozenset(HALF_TYPES.values())
# Their results are among their inputs, or inputs with another sign.
_EXACT_OPS = MOVES | {"Abs", "Clip", "Max", "Min", "Neg", "Relu", "Where"}


def half_types_of(model: onnx.ModelProto) -> frozenset[int]:
    """Find the half types that a graph computes in."""
    found = {tensor.element for tensor in infer_types(model).values()}
    return frozenset(found & _HALVES)


def emulate_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite a graph so that it computes in float32 and rounds to the types that it names.

    Args:
        model: A graph of standard operators; not changed.

    Returns:
        A new graph with the same inputs and outputs. The same graph if there is nothing to do, or
        if bodies of control flow compute in a half type: these are left to the runtime.
    """
    types = {name: found.element for name, found in infer_types(model).items()}
    if _HALVES.isdisjoint(types.values()) or _has_half_bodies(model.graph, types):
        return model
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    _Emulator(emulated, types).rewrite()
    return emulated


def _has_half_bodies(graph: onnx.GraphProto, types: dict[str, int]) -> bool:
    if any(types.get(name) in _HALVES for name in captured_names(graph)):
        return True
    return any(
        tensor.data_type in _HALVES
        for node in graph.node
        for body in subgraphs(node)
        for tensor in constant_tensors(body).values()
    )


class _Emulator:
    """Rewrites a graph in place. A wide tensor is the float32 one that stands for a half one."""

    def __init__(self, model: onnx.ModelProto, types: dict[str, int]) -> None:
        self._model, self._graph, self._types = model, model.graph, types
        self._names = FreshNames(model.graph)
        self._constants = constant_tensors(model.graph)
        self._nodes: list[onnx.NodeProto] = []
        self._wide: dict[str, str] = {}
        self._replaced: set[str] = set()

    def rewrite(self) -> None:
        graph = self._graph
        used_before = used_names(graph)
        for node in graph.node:
            self._rewrite(node)
        for value in graph.output:
            self._narrow(value.name)
        nodes = self._nodes
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        drop_orphans(self._model, used_before | used_names(graph))

    def _is_half(self, name: str) -> bool:
        return self._types.get(name) in _HALVES

    def _narrow(self, name: str) -> None:
        """Make the half tensor itself, if only the one that stands for it was made."""
        if name in self._wide and name in self._replaced:
            self._replaced.remove(name)
            self._nodes.append(_cast(self._wide[name], name, self._types[name]))

    def _rewrite(self, node: onnx.NodeProto) -> None:
        if is_standard(node, "Cast"):
            self._rewrite_cast(node)
        elif is_standard(node, "QuantizeLinear", "DequantizeLinear"):
            self._rewrite_qdq(node)
        elif is_standard_domain(node.domain) and any(map(self._is_half, node.input)):
            self._rewrite_standard(node)
        else:
            for name in node.input:
                self._narrow(name)
            self._nodes.append(node)

    def _rewrite_cast(self, node: onnx.NodeProto) -> None:
        source, output = node.input[0], node.output[0]
        if self._is_half(source):
            node.input[0] = source = self._widened(source)
        if not self._is_half(output):
            self._nodes.append(node)  # ONNX Runtime drops those from float32 to float32
        else:
            self._wide[output] = self._rounded(source, output)
            self._replaced.add(output)

    def _rewrite_qdq(self, node: onnx.NodeProto) -> None:
        is_half = any(self._is_half(name) for name in (*node.input[:2], *node.output))
        if is_half:
            if self._is_half(node.input[0]):
                node.input[0] = self._widened(node.input[0])
            node.input[1] = self._widened(node.input[1])
        self._widen_outputs(node, rounds=False)
        self._nodes.append(node)

    def _rewrite_standard(self, node: onnx.NodeProto) -> None:
        for k, name in enumerate(node.input):
            if self._is_half(name):
                node.input[k] = self._widened(name)
        self._nodes.append(node)
        if not is_standard(node, *FOLLOWERS):
            self._widen_outputs(node, rounds=node.op_type not in _EXACT_OPS)

    def _widen_outputs(self, node: onnx.NodeProto, *, rounds: bool) -> None:
        for k, name in enumerate(node.output):
            if not self._is_half(name):
                continue
            node.output[k] = self._names.new(f"{name}/float32")
            self._replaced.add(name)
            self._wide[name] = self._rounded(node.output[k], name) if rounds else node.output[k]

    def _rounded(self, source: str, name: str) -> str:
        """Round a float32 tensor to the half type of the tensor that it stands for."""
        rounded, wide = (self._names.new(f"{name}/{what}") for what in ("rounded", "wide"))
        self._nodes += [
            _cast(source, rounded, self._types[name]),
            _cast(rounded, wide, TensorProto.FLOAT),
        ]
        return wide

    def _widened(self, name: str) -> str:
        """Name the float32 tensor that stands for one of a half type."""
        if not self._is_half(name):
            return name
        if name not in self._wide:
            wide = self._names.new(f"{name}/wide")
            tensor = self._constants.get(name)
            if tensor is not None and np.prod(tensor.dims) <= _MAX_WIDE:
                values = numpy_helper.to_array(tensor).astype(np.float32)
                self._graph.initializer.append(numpy_helper.from_array(values, wide))
            else:
                self._nodes.append(_cast(name, wide, TensorProto.FLOAT))
            self._wide[name] = wide
        return self._wide[name]


def _cast(source: str, output: str, element: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [output], name=output, to=element)
