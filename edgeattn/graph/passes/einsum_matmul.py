"""Write Einsum as MatMul where it is one: what finds and fuses attention knows products alone."""

from __future__ import annotations

from typing import NamedTuple

import onnx
from onnx import helper

from edgeattn.graph.names import FreshNames
from edgeattn.graph.nodes import attribute, is_standard, node_label


class _Product(NamedTuple):
    """Axes of a product of matrices: of both operands, and of the result."""

    left: list[int]
    right: list[int]
    result: list[int]


def write_einsum_as_matmul(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite each Einsum of two activations that is a batched product of matrices.

    Args:
        model: Not changed.

    Returns:
        A graph that computes the same, with the same names of tensors; the graph itself if there is
        nothing to rewrite.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    products = {
        index: product
        for index, node in enumerate(model.graph.node)
        if is_standard(node, "Einsum")
        and len(node.input) == 2
        and weights.isdisjoint(node.input)
        and (product := _as_product(_equation(node))) is not None
    }
    if not products:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = FreshNames(result.graph)
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(model.graph.node):
        if index in products:
            nodes += _as_matmul(node, products[index], names)
        else:
            nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def _equation(node: onnx.NodeProto) -> str:
    return str(attribute(node, "equation").decode()).replace(" ", "")


def _as_product(equation: str) -> _Product | None:
    """Read an equation; `None` if one MatMul, with transposes around it, does not compute it."""
    operands, arrow, result = equation.partition("->")
    left, comma, right = operands.partition(",")
    if not (arrow and comma) or not (left + right + result).isalpha():
        return None  # axes left to be guessed
    if any(len(set(letters)) != len(letters) for letters in (left, right, result)):
        return None  # a diagonal
    batch = [letter for letter in result if letter in left and letter in right]
    summed = [letter for letter in left if letter in right and letter not in result]
    rows = [letter for letter in left if letter not in right]
    cols = [letter for letter in right if letter not in left]
    if not len(summed) == len(rows) == len(cols) == 1 or set(result) != {*batch, *rows, *cols}:
        return None
    product = [*batch, *rows, *cols]
    return _Product(
        [left.index(letter) for letter in (*batch, *rows, *summed)],
        [right.index(letter) for letter in (*batch, *summed, *cols)],
        [product.index(letter) for letter in result],
    )


def _as_matmul(node: onnx.NodeProto, product: _Product, names: FreshNames) -> list[onnx.NodeProto]:
    label, output = node_label(node), node.output[0]
    nodes: list[onnx.NodeProto] = []

    def transposed(tensor: str, axes: list[int], target: str = "") -> str:
        target = target or names.new(f"{output}/transposed")
        name = names.new(f"{label}/Transpose")
        nodes.append(helper.make_node("Transpose", [tensor], [target], name, perm=axes))
        return target

    operands = [
        tensor if axes == sorted(axes) else transposed(tensor, axes)
        for tensor, axes in zip(node.input, product[:2], strict=True)
    ]
    in_order = product.result == sorted(product.result)
    made = output if in_order else names.new(f"{output}/product")
    nodes.append(helper.make_node("MatMul", operands, [made], node.name))
    if not in_order:
        transposed(made, product.result, output)
    return nodes
