"""A freed graph gives each sample what the fixed one gave it, at any size of the batch."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edgeattn.graph.files import value_shape
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.free_batch import BATCH, fixed_batch, free_batch
from tests.cases import NAMED_CASES
from tests.edgeattn.graph.passes.test_decompose import attention_model
from tests.graphs import classifier, from_text


def graph(body: str, batch: int = 4, **constants: np.ndarray) -> onnx.ModelProto:
    """`x [batch, 6, 5]` to `y [batch, …]` by a few nodes."""
    model = from_text(f"g (float[{batch},6,5] x) => (float[{batch},M] y) {{ {body} }}")
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def check(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    freed = free_batch(model)
    assert freed is not None
    assert model.SerializeToString() == before
    onnx.checker.check_model(freed, full_check=True)
    weights = {tensor.name for tensor in freed.graph.initializer}
    values = [v for v in (*freed.graph.input, *freed.graph.output) if v.name not in weights]
    assert {value_shape(value)[0] for value in values} == {BATCH}
    shape = value_shape(model.graph.input[0])
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    expected = run(model, x)
    np.testing.assert_allclose(run(freed, x), expected, rtol=1e-5, atol=1e-6)
    samples = [run(freed, x[i : i + 1]) for i in range(len(x))]
    np.testing.assert_allclose(np.concatenate(samples), expected, rtol=1e-5, atol=1e-6)
    longer = run(freed, np.concatenate([x, x[:1]]))
    np.testing.assert_allclose(longer, np.concatenate([expected, expected[:1]]), rtol=1e-5)


SHAPES = {
    "the batch alone": [4, 30],
    "the batch, the rest inferred": [4, -1],
    "the batch copied": [0, 30],
    "the batch inferred": [-1, 30],
    "the batch inferred, the rest copied": [-1, 6, 5],
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_reshape_that_keeps_the_batch_is_freed(shape: list[int]) -> None:
    check(graph("r = Reshape(x, s) y = Flatten(r)", s=np.array(shape)))


def test_a_reshape_that_joins_batch_and_tokens_is_freed() -> None:
    body = "j = Reshape(x, s) n = Neg(j) b = Reshape(n, t) y = Flatten(b)"
    check(graph(body, s=np.array([24, 5]), t=np.array([4, 6, 5])))


def test_one_shape_of_two_reshapes_is_freed_for_each() -> None:
    body = "a = Reshape(x, s) n = Neg(x) b = Reshape(n, s) y = Add(a, b)"
    check(graph(body, s=np.array([4, 30])))


def test_decomposed_attention_is_freed() -> None:
    model = decompose(attention_model(NAMED_CASES["many_images"], dynamic=False))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 6
    check(model)


def test_a_weight_that_is_listed_as_an_input_is_none() -> None:
    model = graph("m = MatMul(x, w) y = Flatten(m)", w=np.ones((5, 2), np.float32))
    model.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, (5, 2)))
    check(model)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("e = Expand(x, s) y = Flatten(e)", {"s": [4, 6, 5]}),
        ("t = Tile(x, s) y = Flatten(t)", {"s": [1, 2, 1]}),
        ("c = ConstantOfShape(s) a = Add(x, c) y = Flatten(a)", {"s": [4, 6, 5]}),
        # The batch is no part of the first size, or only in part.
        ("r = Reshape(x, s) q = Reshape(r, t) y = Flatten(q)", {"s": [30, 4], "t": [4, 30]}),
        ("r = Reshape(x, s) q = Reshape(r, t) y = Flatten(q)", {"s": [3, 40], "t": [4, 30]}),
        ("r = Reshape(x, s) q = Reshape(r, t) y = Flatten(q)", {"s": [8, -1], "t": [4, 30]}),
    ],
)
def test_shapes_that_cannot_be_freed_are_left(body: str, constants: dict[str, list[int]]) -> None:
    model = graph(body, **{name: np.array(shape) for name, shape in constants.items()})
    assert free_batch(model) is None


@pytest.mark.parametrize("batch", [1, "batch"])
def test_a_batch_of_one_or_of_any_size_is_left(batch: int | str) -> None:
    model = classifier(batch)
    assert fixed_batch(model) == (batch if batch == 1 else 0)
    assert free_batch(model) is None


def test_the_fixed_batch_is_the_first_size_that_all_share() -> None:
    assert fixed_batch(classifier(3)) == 3
    other = from_text("g (float[3,2] x) => (float[4,2] y) { y = Identity(x) }")
    assert fixed_batch(other) == 0
    assert free_batch(other) is None


def test_a_graph_with_a_number_among_its_outputs_has_no_batch() -> None:
    model = from_text("g (float[3,2] x) => (float[1] y) { y = ReduceSum<keepdims=0>(x) }")
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ()))
    assert fixed_batch(model) == 0
    assert free_batch(model) is None
