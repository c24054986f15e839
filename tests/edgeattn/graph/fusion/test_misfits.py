"""Sizes that ONNX's shape inference lets pass and that do not run: told as ONNX Runtime tells."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgeattn.errors import GraphError
from edgeattn.graph.fusion.probe import Probe
from tests.quantization import with_weights


def runs(model, shape) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    feeds = {"x": np.zeros(shape, np.float32)}
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        session.run(None, feeds)
    except Exception:  # of no common class
        return False
    return True


def is_taken(model, shape) -> bool:
    try:
        Probe(model, {"x": shape})
    except GraphError as err:
        return "does not fit inputs of this size" not in err.message
    return True


sides = st.integers(1, 5)


@given(
    op_type=st.sampled_from(["Conv", "ConvTranspose"]),
    channels=st.sampled_from([(2, 2), (4, 2), (3, 4), (4, 4)]),
    group=st.sampled_from([1, 2]),
    image=st.tuples(sides, sides),
    kernel=st.tuples(sides, sides),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_convolutions(op_type, channels, group, image, kernel, dilations, pads):
    given_channels, taken = channels
    transposed = op_type == "ConvTranspose"
    weight = np.zeros((taken * (1 if transposed else group), taken, *kernel), np.float32)
    if not transposed:
        weight = np.zeros((2 * group, taken, *kernel), np.float32)
    model = with_weights(
        "g (float[N,C,H,W] x) => (float[A,B,D,E] y) { y = Identity(x) }", {"w": weight}
    )
    settings = {"group": group, "dilations": dilations}
    if not transposed:
        settings["pads"] = pads
    model.graph.node[0].CopyFrom(helper.make_node(op_type, ["x", "w"], ["y"], **settings))
    shape = (1, given_channels, *image)
    assert is_taken(model, shape) == runs(model, shape)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "VALID", "NOTSET"])
def test_padding_that_a_convolution_chooses(auto_pad):
    weight = np.zeros((2, 3, 4, 4), np.float32)
    model = with_weights(
        "g (float[N,C,H,W] x) => (float[A,B,D,E] y) { y = Identity(x) }", {"w": weight}
    )
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=auto_pad)
    model.graph.node[0].CopyFrom(node)
    for side in (1, 3, 4, 5):
        assert is_taken(model, (1, 3, side, 5)) == runs(model, (1, 3, side, 5))


@given(shape=st.tuples(sides, sides), target=st.lists(st.integers(-1, 6), min_size=1, max_size=3))
def test_reshapes(shape, target):
    model = with_weights(
        "g (float[A,B] x) => (float[C] y) { y = Reshape(x, to) }",
        {"to": np.array(target, np.int64)},
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert is_taken(model, shape) == runs(model, shape)
