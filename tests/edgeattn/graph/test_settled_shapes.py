"""Shapes that a graph computes from shapes, against what it gives when it runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeattn.graph.settled_shapes import settle_shapes
from edgeattn.graph.shapes import infer_types
from edgeattn.graph.verify import run_graph
from tests.cases import NAMED_CASES
from tests.edgeattn.graph.passes.test_decompose import attention_model
from tests.graphs import from_text
from tests.quantization import with_weights

# Two windows of a third of the height each; onnx's own inference gives up at the division.
WINDOWS = """g (float[N,H,W,3] x) => (float[A,B,C] y) {
    s = Shape(x)
    n = Gather(s, zero)
    h = Gather(s, one)
    third = Div(h, three)
    rows = Mul(third, three)
    n1 = Unsqueeze(n, first)
    r1 = Unsqueeze(rows, first)
    t1 = Unsqueeze(third, first)
    stop = Concat<axis = 0>(n1, r1)
    start = Constant<value_ints = [0, 0]>()
    axes = Constant<value_ints = [0, 1]>()
    cut = Slice(x, start, stop, axes)
    minus = Constant<value_ints = [-1]>()
    wanted = Concat<axis = 0>(t1, minus, n1)
    y = Reshape(cut, wanted)
}"""
WEIGHTS = {
    "zero": np.array(0),
    "one": np.array(1),
    "three": np.array(3),
    "first": np.array([0]),
}


def shapes_of(model: onnx.ModelProto) -> dict[str, object]:
    return {name: found.shape for name, found in infer_types(model).items()}


@pytest.mark.parametrize("shape", [(2, 7, 5, 3), (1, 3, 2, 3), (4, 11, 9, 3)])
def test_computed_shapes_are_those_of_a_run(shape: tuple[int, ...]) -> None:
    model = with_weights(WINDOWS, WEIGHTS)
    (expected,) = run_graph(model, {"x": np.zeros(shape, np.float32)})
    settled = shapes_of(settle_shapes(model, {"x": shape}))
    assert settled["y"] == expected.shape
    assert settled["cut"] == (shape[0], shape[1] // 3 * 3, *shape[2:])
    assert not all(isinstance(size, int) for size in shapes_of(model)["y"])  # type: ignore[attr-defined]


def test_the_graph_itself_is_left_alone() -> None:
    model = with_weights(WINDOWS, WEIGHTS)
    before = model.SerializeToString(deterministic=True)
    settle_shapes(model, {"x": (2, 7, 5, 3)})
    assert model.SerializeToString(deterministic=True) == before


def test_large_weights_are_counted_and_not_copied() -> None:
    weight = np.ones((300, 500), np.float32)
    model = with_weights("g (float[N,300] x) => (float[A,B] y) { y = MatMul(x, w) }", {"w": weight})
    settled = settle_shapes(model, {"x": (7, 300)})
    assert settled.ByteSize() < 1000
    assert shapes_of(settled)["w"] == (300, 500)
    assert shapes_of(settled)["y"] == (7, 500)
    assert len(model.graph.initializer[0].raw_data) == weight.nbytes


@pytest.mark.parametrize("name", ["odd_map_mask_pad_then_roll", "grid_masked", "causal"])
def test_attention_nodes_are_passed_through(name: str) -> None:
    case = NAMED_CASES[name]
    model = attention_model(case, dynamic=True)
    shape = (case.batch, case.height, case.width, case.spec.qkv_channels)
    out = model.graph.output[0].name
    old = out + "/inner"
    model.graph.node[-1].output[0] = old
    model.graph.node.append(helper.make_node("Shape", [old], ["sizes"]))
    model.graph.node.append(helper.make_node("Reshape", [old, "sizes"], [out]))
    settled = shapes_of(settle_shapes(model, {model.graph.input[0].name: shape}))
    assert settled[out] == (*shape[:3], case.spec.out_channels)


def test_parts_of_a_shape_and_its_size_are_known() -> None:
    model = from_text(
        "g (float[N,4,M] x) => (float[A,B] y, int64 z) "
        "{ s = Shape<start = 1, end = 3>(x) y = ConstantOfShape(s) z = Size(x) }"
    )
    assert shapes_of(settle_shapes(model, {"x": (2, 4, 5)}))["y"] == (4, 5)


def test_what_nobody_knows_stays_unknown() -> None:
    model = from_text(
        "g (float[N,4] x, int64[2] s) => (float[A,B] y, float[C,D] z) "
        "{ y = Reshape(x, s) n = NonZero(y) z = Cast<to = 1>(n) }"
    )
    model.graph.node.append(helper.make_node("Magic", ["x"], ["w"], domain="mine"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.append(helper.make_node("Unheard", ["w"], ["v"]))
    settled = shapes_of(settle_shapes(model, {"x": (2, 4)}))
    assert settled["x"] == (2, 4)
    assert not all(isinstance(size, int) for size in settled["y"])  # type: ignore[attr-defined]


def test_chance_is_not_evaluated() -> None:
    model = from_text(
        "g (float[N] x) => (float[A] y) "
        "{ r = RandomUniform<shape = [1], low = 1.0, high = 9.0>() "
        "i = Cast<to = 7>(r) y = ConstantOfShape(i) }"
    )
    settled = infer_types(settle_shapes(model, {"x": (3,)}))
    assert settled["i"].element == TensorProto.INT64
    assert not all(isinstance(size, int) for size in settled["y"].shape or ("?",))
