"""What happens to logits between query times key and softmax: factors, and what is added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.moves import is_move
from edgeattn.graph.fusion.probe import Probe, run_node
from edgeattn.graph.nodes import is_standard, node_label

_BLOCKED = -1e9  # what is masked by this or less has no probability left, whatever is added


@dataclass(frozen=True)
class Logits:
    """`factor * product[index] + added`, element by element.

    Attributes:
        index: Place in the flat product.
        factor: Of the product, broadcast.
        added: Likewise.
    """

    index: NDArray[np.int64]
    factor: NDArray[np.float64]
    added: NDArray[np.float64]


def trace_logits(name: str, products: set[str], probe: Probe, opset: int) -> tuple[str, Logits]:
    """Follow logits back to the product that they are made of.

    Args:
        name: What the softmax reads.
        products: Tensors that are products of queries and keys.
        probe: The graph at one size.
        opset: Version of the ONNX standard.

    Returns:
        The product, and what was made of it.

    Raises:
        UnrecognisedError: If anything but numbers known before is made of it.
    """
    steps: list[tuple[onnx.NodeProto, int]] = []
    while name not in products:
        node = probe.producer.get(name)
        if node is None:
            raise UnrecognisedError("its logits are no product of queries and keys")
        data = [slot for slot, one in enumerate(node.input) if one and not probe.is_known(one)]
        if len(data) != 1:
            raise UnrecognisedError(f"data changes what {node_label(node)} adds to its logits")
        steps.append((node, data[0]))
        name = node.input[data[0]]
    shape = probe.shape(name)
    if shape is None:
        raise UnrecognisedError(f"the size of {name} is not known before the graph runs")
    size = int(np.prod(shape, dtype=np.int64))
    logits = Logits(np.arange(size).reshape(shape), np.ones(shape), np.zeros(shape))
    for node, slot in reversed(steps):
        logits = _apply(node, slot, logits, probe, opset)
    return name, logits


def _apply(node: onnx.NodeProto, slot: int, logits: Logits, probe: Probe, opset: int) -> Logits:
    others = [probe.value(one) if one and i != slot else None for i, one in enumerate(node.input)]
    other = next((np.asarray(v, np.float64) for v in others if v is not None), None)
    if is_standard(node, "Cast", "Identity"):
        return logits
    if is_move(node, probe):
        parts = [
            run_node(node, [part if i == slot else v for i, v in enumerate(others)], opset)[0]
            for part in (logits.index, logits.factor, logits.added)
        ]
        return Logits(*parts)
    if is_standard(node, "Add", "Sub", "Mul", "Div", "Where") and other is not None:
        shape = probe.shape(node.output[0])
        if shape != logits.index.shape:
            raise UnrecognisedError(f"{node_label(node)} repeats its logits")
        if is_standard(node, "Where"):
            return _masked(slot, others, logits)
        if is_standard(node, "Add"):
            return Logits(logits.index, logits.factor, logits.added + other)
        if is_standard(node, "Sub") and slot == 0:
            return Logits(logits.index, logits.factor, logits.added - other)
        if is_standard(node, "Mul"):
            return Logits(logits.index, logits.factor * other, logits.added * other)
        if is_standard(node, "Div") and slot == 0:
            return Logits(logits.index, logits.factor / other, logits.added / other)
    raise UnrecognisedError(f"{node_label(node)} ({node.op_type}) changes its logits")


def _masked(slot: int, others: list[NDArray[Any] | None], logits: Logits) -> Logits:
    """Add minus infinity where a mask puts a very low number in a logit's place."""
    condition, fill = others[0], others[3 - slot]
    if condition is None or fill is None or not (fill <= _BLOCKED).all():
        raise UnrecognisedError("its logits are replaced by numbers that are no mask")
    kept = condition.astype(bool) if slot == 1 else ~condition.astype(bool)
    return Logits(logits.index, logits.factor, np.where(kept, logits.added, -np.inf))
