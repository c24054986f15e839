"""Equal of truth values, written with what TensorRT has."""

from __future__ import annotations

import numpy as np

from edgeattn.engine.tensorrt.lowering import lower_for_tensorrt
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.graph.passes.bool_equal import rewrite_bool_equal
from edgeattn.graph.verify import run_graph
from tests.quantization import with_weights

TEXT = """g (float[3,5] x) => (bool[3,5] y, bool[3,5] z) {
    low = Less(x, zero)
    y = Equal(low, no)
    high = Greater(x, one)
    same = Equal(low, high)
    z = Not(same)
}"""
WEIGHTS = {"zero": np.float32(0), "one": np.float32(1), "no": np.array(False)}


def test_the_results_are_the_same_and_no_equal_is_left() -> None:
    model = with_weights(TEXT, WEIGHTS)
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    expected = [~(x < 0), (x < 0) != (x > 1)]
    rewrite_bool_equal(model)
    assert [node.op_type for node in model.graph.node] == [
        *("Less", "Xor", "Not", "Greater", "Xor", "Not", "Not")
    ]
    for found, each in zip(run_graph(model, {"x": x}), expected, strict=True):
        np.testing.assert_array_equal(found, each)


def test_numbers_are_compared_as_they_are() -> None:
    model = with_weights("g (float[3] x) => (bool[3] y) { y = Equal(x, one) }", WEIGHTS)
    rewrite_bool_equal(model)
    assert [node.op_type for node in model.graph.node] == ["Equal"]


def test_tensorrt_never_gets_one() -> None:
    lowered = lower_for_tensorrt(with_weights(TEXT, WEIGHTS), TensorRtVersion(10, 3))
    assert lowered.faults == ()
    assert "Equal" not in {node.op_type for node in lowered.model.graph.node}
