"""Trials of scales: one session that computes what each quantized graph would."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn.calibration.judge import SampleSession
from edgeattn.calibration.scale_trials import ScaleTrials
from edgeattn.graph.int8 import quant_scale_from_amax
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import RECIPES, place_qdq
from tests.quantization import (
    as_is,
    block,
    block_weights,
    fake_quantized,
    fake_quantized_matrix,
    floats,
    run_block,
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_trial_equals_the_graph_that_quantize_writes_bit_for_bit(recipe):
    model, x = block(), {"x": floats(5, 4, 8)}
    trials = ScaleTrials(model, recipe, x)
    assert trials.tensors == place_qdq(model, recipe).activations
    for first in (0.4, 3.0):
        amax = {name: first + 0.37 * n for n, name in enumerate(trials.tensors)}
        scales = {name: float(quant_scale_from_amax(value)) for name, value in amax.items()}
        expected = SampleSession(insert_qdq(model, scales, recipe)[0]).run(x)
        np.testing.assert_array_equal(trials.run(amax)["y"], expected["y"])


def test_a_tensor_alone_is_rounded_alone():
    model, x = block(), floats(5, 4, 8)
    trials = ScaleTrials(model, "linear", {"x": x})
    scale = float(quant_scale_from_amax(1.5))

    def only_sum(name: str, values: np.ndarray) -> np.ndarray:
        return fake_quantized(values, scale) if name == "sum" else values

    expected = run_block(x, block_weights(), only_sum, fake_quantized_matrix)
    np.testing.assert_allclose(trials.run({"sum": 1.5})["y"], expected, atol=2e-5)
    without = run_block(x, block_weights(), as_is, fake_quantized_matrix)
    np.testing.assert_allclose(trials.run({})["y"], without, atol=2e-5)


def test_rows_are_those_asked_for():
    trials = ScaleTrials(block(), "linear", {"x": floats(9, 4, 8)})
    rows = np.array([7, 2])
    np.testing.assert_array_equal(trials.run({}, rows)["y"], trials.run({})["y"][rows])
