"""Overflow check: which tensors of a graph reach beyond FP16's range on real inputs.

The graph runs in float32, and the largest magnitude of each tensor is reduced inside it, so that
only scalars leave it. Infinities, which mask logits, are infinities in FP16 too and no overflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeattn.calibration.session import open_session, refused
from edgeattn.calibration.sources import Array
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import GraphError
from edgeattn.graph.constants import constant_tensors
from edgeattn.graph.nodes import is_standard
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.shapes import infer_types

FP16_MAX = 65504.0
# Data not seen yet may reach further than what was.
MARGIN = 2.0

_SQUARING_OPS = (
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "LpNormalization",
    "RMSNormalization",
    "ReduceL2",
    "ReduceSumSquare",
)


@dataclass(frozen=True)
class Overflow:
    """A tensor that FP16 cannot hold, or cannot hold the squares of.

    Attributes:
        tensor: Its name.
        magnitude: Its largest magnitude.
        what: `value`, or `square` if only its squares are too large, which a node that reads it
            forms inside.
    """

    tensor: str
    magnitude: float
    what: str


@dataclass(frozen=True)
class OverflowCheck:
    """What an overflow check looked at, and what it found.

    Attributes:
        source: `data`, `table` or `none`.
        samples: Samples that ran; 0 if none did.
        checked: Tensors whose range is known.
        unchecked: Tensors whose range is not known.
        overflows: What passed FP16's range, `MARGIN` kept.
    """

    source: str
    samples: int = 0
    checked: int = 0
    unchecked: int = 0
    overflows: list[Overflow] = field(default_factory=list)

    @property
    def values(self) -> dict[str, float]:
        """The tensors whose values are too large, and their largest magnitudes."""
        return {o.tensor: o.magnitude for o in self.overflows if o.what == "value"}

    def to_report(self) -> dict[str, Any]:
        """Give the entries for a manifest."""
        if self.source == "none":
            verdict = "not done: neither data nor a table says how large the tensors get"
        elif self.unchecked:
            verdict = (
                f"in part: of {self.unchecked} of {self.checked + self.unchecked} tensors the "
                "range is not known; give data to check all"
            )
        else:
            verdict = f"done: {self.checked} tensors on {self.samples} samples"
        if self.source != "none":
            verdict += f"; {len(self.values) or 'none'} beyond {FP16_MAX / MARGIN:.0f}"
        return {
            "overflow_check": verdict,
            "overflows": [asdict(overflow) for overflow in self.overflows],
        }


def check_overflow(
    model: onnx.ModelProto,
    batches: Iterable[Mapping[str, Array]] | None = None,
    table: CalibTable | None = None,
) -> OverflowCheck:
    """Find the tensors of a graph that FP16 cannot hold.

    Args:
        model: A float32 graph, attention nodes and Q/DQ included.
        batches: Real inputs: every tensor is observed.
        table: What else is known, without data: the ranges of the tensors that it holds.

    Raises:
        GraphError: If ONNX Runtime does not run the graph.
    """
    tensors = _float_tensors(model)
    known: dict[str, float] = {}
    source, samples = "none", 0
    if batches is not None:
        source = "data"
        session = _MagnitudeSession(model, tensors)
        for batch in batches:
            samples += len(next(iter(batch.values())))
            for name, magnitude in session.run(batch).items():
                known[name] = max(known.get(name, 0.0), magnitude)
    elif table is not None:
        source = "table"
        known = {name: amax for name, amax in _observed(table).items() if name in set(tensors)}
    squared = {node.input[0] for node in model.graph.node if is_standard(node, *_SQUARING_OPS)}
    overflows = list(_overflows(known, squared))
    return OverflowCheck(source, samples, len(known), len(tensors) - len(known), overflows)


def _observed(table: CalibTable) -> dict[str, float]:
    """Read the largest magnitudes that a table knows; a clipped range tells the least of them."""
    return {
        name: max(entry.amax, entry.observed.amax if entry.observed else 0.0)
        for name, entry in table.tensors.items()
    }


def _overflows(magnitudes: Mapping[str, float], squared: set[str]) -> Iterator[Overflow]:
    for name, magnitude in magnitudes.items():
        if magnitude * MARGIN > FP16_MAX:
            yield Overflow(name, magnitude, "value")
        elif name in squared and magnitude**2 * MARGIN > FP16_MAX:
            yield Overflow(name, magnitude, "square")


def _float_tensors(model: onnx.ModelProto) -> list[str]:
    """List the float32 tensors that depend on the inputs, in the graph's order.

    What is dequantized is left out: its scale tells its range.
    """
    types = infer_types(model)
    constants = constant_tensors(model.graph)
    names = [value.name for value in model.graph.input]
    for node in model.graph.node:
        is_constant = all(name in constants for name in node.input if name)
        if not (is_constant or is_standard(node, "DequantizeLinear")):
            names += filter(None, node.output)
    return [
        name
        for name in dict.fromkeys(names)
        if name not in constants and name in types and types[name].element == TensorProto.FLOAT
    ]


class _MagnitudeSession:
    """A graph whose outputs are the largest finite magnitudes of its tensors."""

    def __init__(self, model: onnx.ModelProto, tensors: list[str]) -> None:
        self._tensors = tensors
        probe = onnx.ModelProto()
        probe.CopyFrom(decompose(model))
        _add_magnitudes(probe, tensors)
        self._session = open_session(probe)

    def run(self, batch: Mapping[str, Array]) -> dict[str, float]:
        try:
            values = self._session.run(None, dict(batch))
        except Exception as err:  # onnxruntime's errors share no class
            raise refused("run", err) from err
        found = dict(zip(self._tensors, map(float, values), strict=True))
        wrong = next((name for name, value in found.items() if np.isinf(value)), None)
        if wrong is not None:
            raise GraphError(
                f"the tensor {wrong} takes on NaN on this data",
                "look at the weights before it and at the inputs' preprocessing",
            )
        return found


def _add_magnitudes(model: onnx.ModelProto, tensors: list[str]) -> None:
    """Make one scalar per tensor the only outputs, in place."""
    graph = model.graph
    prefix = "edgeattn/overflow"
    zero, infinity, bottom, shape = (f"{prefix}/{i}" for i in ("zero", "inf", "bottom", "shape"))
    graph.initializer.extend(
        numpy_helper.from_array(values, name)
        for name, values in (
            (zero, np.array(0, np.float32)),
            (infinity, np.array(np.inf, np.float32)),
            (bottom, np.zeros(1, np.float32)),
            (shape, np.array([-1])),
        )
    )
    del graph.output[:]
    for number, tensor in enumerate(tensors):
        names = [f"{prefix}/{number}/{i}" for i in range(8)]
        magnitude, infinite, finite, absent, marked, flat, padded, largest = names
        for op_type, inputs, output in (
            ("Abs", [tensor], magnitude),
            ("IsInf", [magnitude], infinite),
            ("Where", [infinite, zero, magnitude], finite),
            ("IsNaN", [finite], absent),  # which a maximum would pass over
            ("Where", [absent, infinity, finite], marked),
            ("Reshape", [marked, shape], flat),
        ):
            graph.node.append(helper.make_node(op_type, inputs, [output]))
        # An empty tensor has no maximum without the zero.
        graph.node.append(helper.make_node("Concat", [flat, bottom], [padded], axis=0))
        graph.node.append(helper.make_node("ReduceMax", [padded], [largest], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, []))
