"""The tensors of a graph that no input can change, and their values.

Exporters and simplifiers write the same weight in many ways: an initializer, a Constant node, a
transposed or cast initializer. Passes that ask here see them alike.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeattn.errors import GraphError

_RANDOM_OPS = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"} | {
    "RandomUniformLike"
}


class Constants:
    """The constant tensors of a graph: ask with `in`, read with `value`.

    Constant is an initializer that no graph input of the same name overrides, and what nodes of
    the standard domain compute from constants alone.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        overridable = {value.name for value in graph.input}
        self._opsets = list(model.opset_import)
        self._ir_version = model.ir_version
        self._initializers = {t.name: t for t in graph.initializer if t.name not in overridable}
        self._nodes: list[onnx.NodeProto] = []
        self._computed: set[str] = set()
        for node in graph.node:
            if is_deterministic(node) and all(name in self for name in node.input if name):
                self._nodes.append(node)
                self._computed.update(filter(None, node.output))
        self._compute = functools.cache(self._evaluate)

    def __contains__(self, name: object) -> bool:
        """Tell whether a tensor is constant."""
        return name in self._initializers or name in self._computed

    def value(self, name: str) -> NDArray[Any]:
        """Read a constant tensor.

        Raises:
            GraphError: If its nodes cannot be evaluated.
        """
        if name in self._initializers:
            return np.asarray(numpy_helper.to_array(self._initializers[name]))
        return self._compute(name)

    def get(self, name: str) -> NDArray[Any] | None:
        """Read a tensor if it is constant; `None` if it is not.

        Raises:
            GraphError: If its nodes cannot be evaluated.
        """
        return self.value(name) if name in self else None

    def _evaluate(self, name: str) -> NDArray[Any]:
        from onnx.reference import ReferenceEvaluator  # loads every operator

        wanted, nodes = {name}, []
        for node in reversed(self._nodes):
            if not wanted.isdisjoint(node.output):
                nodes.append(node)
                wanted.update(filter(None, node.input))
        graph = helper.make_graph(
            nodes[::-1],
            "constant",
            [],
            [onnx.ValueInfoProto(name=name)],
            initializer=[t for key, t in self._initializers.items() if key in wanted],
        )
        model = helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir_version)
        try:
            (value,) = ReferenceEvaluator(model).run(None, {})
        except Exception as err:  # the evaluator raises whatever an operator's code meets
            raise GraphError(
                f"the constant {name} cannot be evaluated: {err}", "simplify the graph first"
            ) from err
        return np.asarray(value)


def constant_tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Find initializers that no input overrides and the tensors of Constant nodes, by name."""
    overridable = {value.name for value in graph.input}
    found = {t.name: t for t in graph.initializer if t.name not in overridable}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            found |= {
                name: a.t for name in node.output for a in node.attribute if a.name == "value"
            }
    return found


def used_names(graph: onnx.GraphProto) -> set[str]:
    """Collect the tensors that nodes read, inside control flow too, and the graph's outputs."""
    return set(_used(graph))


def _used(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from filter(None, node.input)
        for body in subgraphs(node):
            yield from _used(body)


def captured_names(graph: onnx.GraphProto) -> set[str]:
    """Collect the names that bodies of control flow read, the graph's own tensors among them."""
    bodies = (body for node in graph.node for body in subgraphs(node))
    return {name for body in bodies for name in used_names(body)}


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """List the bodies of a control-flow node."""
    bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return bodies + [g for a in node.attribute for g in a.graphs]


def drop_orphans(model: onnx.ModelProto, used_before: set[str]) -> None:
    """Remove what a rewrite left without a reader.

    Args:
        model: Changed in place.
        used_before: `used_names` before the rewrite; what nobody read even then stays.
    """
    graph = model.graph
    while True:
        used = used_names(graph)
        orphans = used_before - used
        kept = [
            node
            for node in graph.node
            if orphans.isdisjoint(node.output) or not used.isdisjoint(node.output)
        ]
        if len(kept) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(kept)
    for container in (graph.initializer, graph.value_info):
        for index in reversed(range(len(container))):
            if container[index].name in orphans:
                del container[index]


def is_deterministic(node: onnx.NodeProto) -> bool:
    """Tell whether a node of the standard gives equal outputs for equal inputs, by itself alone."""
    return (
        node.domain in ("", "ai.onnx")
        and node.op_type not in _RANDOM_OPS
        and not any(
            a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            for a in node.attribute
        )
    )
