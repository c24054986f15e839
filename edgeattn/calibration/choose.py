"""Choose among candidate thresholds by what they do to the network's output.

The error of a tensor is no proxy for that of the output: a threshold that looks best by its own
histogram can cost 20 dB. So candidates are tried in the network, on one half of the samples, and
the choice is confirmed on the other half. What is not confirmed stays at the largest magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edgeattn.calibration.judge import (
    Arrays,
    SampleSession,
    output_sqnr_db,
    rows_of,
)
from edgeattn.errors import DataError, GraphError
from edgeattn.graph.compare import finite_or_none
from edgeattn.graph.int8 import quant_scale_from_amax
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import Recipe, place_qdq

SAFE = "minmax"
# With fewer there is nothing to choose by, or to confirm on.
LEAST_SAMPLES = 4
# A choice has to gain this much on samples that did not take part in it.
MARGIN_DB = 0.1

Candidates = Mapping[str, Mapping[str, float]]
Progress = Callable[[int, "int | None", str], None]


@dataclass(frozen=True)
class ThresholdChoice:
    """Which candidate each tensor gets.

    Attributes:
        methods: Method by tensor.
        report: What was tried and the output SQNR of each; JSON values.
    """

    methods: dict[str, str]
    report: dict[str, Any]


def choose_thresholds(
    model: onnx.ModelProto,
    candidates: Candidates,
    samples: Arrays,
    progress: Progress | None = None,
) -> ThresholdChoice:
    """Choose a threshold for each tensor by the error at the network's output.

    Args:
        model: The float graph.
        candidates: By tensor, in the graph's order, the threshold that each method gives;
            `minmax` among them. A method that gives no threshold of its own is left out.
        samples: Inputs by name, samples along axis 0: every other one chooses, the others confirm.
        progress: Called with trials done, their number, and a word.

    Returns:
        The choice; `minmax` everywhere unless something else was confirmed to be better.
    """
    safe = dict.fromkeys(candidates, SAFE)
    count = len(next(iter(samples.values()), ()))
    if count < LEAST_SAMPLES:
        return ThresholdChoice(safe, {"reason": f"{count} samples are too few to choose by"})
    try:
        trials = _Trials(model, candidates, samples, "linear")
    except (DataError, GraphError) as err:
        return ThresholdChoice(safe, {"reason": err.message})
    methods = list(dict.fromkeys(m for by_method in candidates.values() for m in by_method))
    tried: dict[str, float] = {}
    for number, method in enumerate(methods):
        if progress:
            progress(number, len(methods), "choosing")
        tried[method] = trials.sqnr_db(_of_method(candidates, method))[0]
    best = max(methods, key=lambda method: tried[method])
    report: dict[str, Any] = {
        "tried_db": {method: finite_or_none(value) for method, value in tried.items()},
    }
    if best != SAFE:
        chosen = _of_method(candidates, best)
        confirmed = trials.sqnr_db(chosen)[1], trials.sqnr_db(safe)[1]
        report["confirmed_db"] = {
            best: finite_or_none(confirmed[0]),
            SAFE: finite_or_none(confirmed[1]),
        }
        if confirmed[0] > confirmed[1] + MARGIN_DB:
            return ThresholdChoice(chosen, report | {"reason": f"{best} is better than {SAFE}"})
        return ThresholdChoice(safe, report | {"reason": f"{best} was not confirmed"})
    return ThresholdChoice(safe, report | {"reason": f"no method is better than {SAFE}"})


def _of_method(candidates: Candidates, method: str) -> dict[str, str]:
    return {
        tensor: method if method in by_method else SAFE for tensor, by_method in candidates.items()
    }


class _Trials:
    """One session in which every scale can be given anew."""

    def __init__(
        self, model: onnx.ModelProto, candidates: Candidates, samples: Arrays, recipe: Recipe
    ) -> None:
        tensors = place_qdq(model, recipe).activations
        # Each tensor gets a scale of its own value, by which its initializers are found again.
        marks = {float(np.float32(1 + n / 4096)): tensor for n, tensor in enumerate(tensors)}
        scales = {tensor: mark for mark, tensor in marks.items()}
        quantized = decompose(insert_qdq(model, scales, recipe)[0])
        self._scales = _make_overridable(quantized, marks)
        self._session = SampleSession(quantized)
        self._candidates = candidates
        self._samples = samples
        self.reference = SampleSession(decompose(model)).run(samples)

    def sqnr_db(self, methods: Mapping[str, str]) -> tuple[float, float]:
        """Give the SQNR on the samples that choose and on those that confirm."""
        scales = {
            name: quant_scale_from_amax(self._candidates[tensor][methods[tensor]])
            for name, tensor in self._scales.items()
        }
        outputs = self._session.run(self._samples, scales)
        halves = (slice(0, None, 2), slice(1, None, 2))
        first, second = (
            output_sqnr_db(rows_of(self.reference, rows), rows_of(outputs, rows)) for rows in halves
        )
        return first, second


def _make_overridable(model: onnx.ModelProto, marks: Mapping[float, str]) -> dict[str, str]:
    """Turn scales into inputs with a default, in place; give the tensor of each."""
    graph = model.graph
    found = {n.input[1] for n in graph.node if n.op_type == "QuantizeLinear"}
    tensors = {}
    for initializer in graph.initializer:
        if initializer.name in found:
            value = float(onnx.numpy_helper.to_array(initializer))
            if value in marks:
                tensors[initializer.name] = marks[value]
                graph.input.append(
                    onnx.helper.make_tensor_value_info(
                        initializer.name, initializer.data_type, initializer.dims
                    )
                )
    return tensors
