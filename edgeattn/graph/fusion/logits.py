"""What happens to logits between query times key and softmax: factors, and what is added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.moves import RESHAPES, is_move, known_shape, move_runs
from edgeattn.graph.fusion.probe import Probe, run_node
from edgeattn.graph.fusion.runs import Runs
from edgeattn.graph.nodes import is_standard

_BLOCKED = -1e9  # what is masked by this or less has no probability left, whatever is added


@dataclass(frozen=True)
class Logits:
    """`factor * product + sum(terms)`, element by element.

    Attributes:
        shape: Of the product, `[..., places, places]`; each such matrix is a row.
        factor: Of the product, broadcast to that shape.
        terms: Likewise: their sum is added. Kept apart, they take no memory for what is repeated.
    """

    shape: tuple[int, ...]
    factor: NDArray[np.float64]
    terms: tuple[NDArray[Any], ...]

    def row_factors(self) -> NDArray[np.float64]:
        """Give the factor of each row.

        Raises:
            UnrecognisedError: If a row has several.
        """
        core = _core(self.factor)
        if core.shape[-2:] != (1, 1) and (core != core[..., :1, :1]).any():
            raise UnrecognisedError("its logits have different factors")
        return np.broadcast_to(core[..., 0, 0], self.shape[:-2]).reshape(-1)

    def is_anything_added(self) -> bool:
        """Tell whether anything but zero is added."""
        return any(_core(term).any() for term in self.terms)

    def added(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Give what is added to some rows, `[rows, places, places]`."""
        place = np.unravel_index(rows, self.shape[:-2])
        total = np.zeros((len(rows), *self.shape[-2:]))
        with np.errstate(all="ignore"):  # whoever reads it sees what is infinite or no number
            for term in self.terms:
                total += term[place]
        return total


@dataclass(frozen=True)
class _Step:
    """As `Logits`, on the way, in the shape of a tensor between product and softmax.

    Attributes:
        runs: Of the product.
        factor: Broadcast to the shape.
        terms: Likewise.
    """

    runs: Runs
    factor: NDArray[np.float64]
    terms: tuple[NDArray[Any], ...]


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
        UnrecognisedError: If anything but numbers known before is made of it, or its elements are
            put in another order.
    """
    steps: list[tuple[onnx.NodeProto, int]] = []
    while name not in products:
        node = probe.producer.get(name)
        if node is None:
            raise UnrecognisedError("its logits are no product of queries and keys")
        data = [slot for slot, one in enumerate(node.input) if one and not probe.is_known(one)]
        if len(data) != 1:
            raise UnrecognisedError("data changes what is added to its logits")
        steps.append((node, data[0]))
        name = node.input[data[0]]
    shape = known_shape(name, probe)
    if len(shape) < 2 or 0 in shape:
        raise UnrecognisedError(f"{name} is no matrix")
    logits = _Step(Runs.of_source(shape), np.broadcast_to(np.float64(1), shape), ())
    with np.errstate(all="ignore"):  # likewise
        for node, slot in reversed(steps):
            logits = _apply(node, slot, logits, probe, opset)
    if not logits.runs.are_all_in_order():
        raise UnrecognisedError("its logits are put in another order")
    if len(shape) == 2:
        shape = (1, *shape)
    return name, Logits(
        shape, logits.factor.reshape(shape), tuple(term.reshape(shape) for term in logits.terms)
    )


def _apply(node: onnx.NodeProto, slot: int, logits: _Step, probe: Probe, opset: int) -> _Step:
    if is_standard(node, "Cast", "Identity"):
        return logits
    name = node.output[0]
    shape = known_shape(name, probe)
    others = [probe.value(one) if one and i != slot else None for i, one in enumerate(node.input)]
    if is_move(node, probe):
        return _Step(
            move_runs(node, name, {node.input[slot]: logits.runs}, probe, opset),
            _moved(node, slot, logits.factor, others, shape, opset),
            tuple(_moved(node, slot, term, others, shape, opset) for term in logits.terms),
        )
    other = next((v for v in others if v is not None), None)
    if is_standard(node, "Add", "Sub", "Mul", "Div", "Where") and other is not None:
        if shape != logits.factor.shape:
            raise UnrecognisedError("its logits are repeated")
        if is_standard(node, "Where"):
            return _Step(logits.runs, logits.factor, (*logits.terms, _mask(slot, others, shape)))
        if other.dtype.kind != "f":  # bfloat16, which NumPy adds to nothing else
            other = other.astype(np.float64)
        if is_standard(node, "Add") or (is_standard(node, "Sub") and slot == 0):
            term = np.broadcast_to(other if is_standard(node, "Add") else -other, shape)
            return _Step(logits.runs, logits.factor, (*logits.terms, term))
        if is_standard(node, "Mul") or (is_standard(node, "Div") and slot == 0):
            other = np.asarray(other, np.float64)
            by = other if is_standard(node, "Mul") else 1 / other
            factor, *terms = (
                np.broadcast_to(_core(part) * by, shape) for part in (logits.factor, *logits.terms)
            )
            return _Step(logits.runs, factor, tuple(terms))
    raise UnrecognisedError(f"its logits go through {node.op_type}")


def _moved(
    node: onnx.NodeProto,
    slot: int,
    part: NDArray[Any],
    others: Sequence[NDArray[Any] | None],
    shape: tuple[int, ...],
    opset: int,
) -> NDArray[Any]:
    """Move numbers as a node does; repeated ones that keep their order stay unwritten."""
    if not any(part.strides):
        return np.broadcast_to(part.flat[0], shape)
    if is_standard(node, *RESHAPES):
        return part.reshape(shape)
    return run_node(node, [part if i == slot else v for i, v in enumerate(others)], opset)[0]


def _core(part: NDArray[Any]) -> NDArray[Any]:
    """Give a broadcast array without what is repeated: of one entry along such axes."""
    return part[tuple(slice(None) if stride else slice(1) for stride in part.strides)]


def _mask(slot: int, others: Sequence[NDArray[Any] | None], shape: tuple[int, ...]) -> NDArray[Any]:
    """Give minus infinity where a mask puts a very low number in a logit's place."""
    condition, fill = others[0], others[3 - slot]
    if condition is None or fill is None or not (fill <= _BLOCKED).all():
        raise UnrecognisedError("its logits are replaced by numbers that are no mask")
    kept = condition.astype(bool) if slot == 1 else ~condition.astype(bool)
    return np.broadcast_to(np.where(kept, 0, -np.inf), shape)
