"""Types and shapes inferred through attention nodes are those that ONNX Runtime computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn.errors import GraphError
from edgeattn.graph import shapes
from edgeattn.graph.op import attention_nodes, make_attention_node
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.shapes import TensorType, infer_types
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.graphs import classifier, from_text

SPEC = AttentionSpec(4, 2, (HeadGroup(2, (2, 3)), HeadGroup(1, 3)))


def attention(
    spec: AttentionSpec = SPEC, element: str = "float", size: str = "1,5,6"
) -> onnx.ModelProto:
    """Attention, then nodes whose shape depends on its output's."""
    model = from_text(
        f"g ({element}[{size},24] x) => (float[] y) {{ a = Identity(x) b = Cast<to=1>(z) "
        "s = Shape<start=1>(b) r = ReduceSum(b, axes) y = Flatten<axis=0>(r) }"
    )
    axes = numpy_helper.from_array(np.array([1, 2]), "axes")
    model.graph.initializer.append(axes)
    model.graph.node.insert(1, make_attention_node(spec, ["a"], "z", "attention"))
    model.opset_import.append(helper.make_opsetid("edgeattn", 1))
    return model


def test_static_types_are_those_that_onnx_runtime_computes() -> None:
    model = attention()
    types = infer_types(model)
    runnable = decompose(model)
    names = [name for node in model.graph.node for name in node.output]
    del runnable.graph.output[:]
    runnable.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(
        onnx.shape_inference.infer_shapes(runnable).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    computed = session.run(names, {"x": np.zeros((1, 5, 6, 24), np.float32)})
    for name, array in zip(names, computed, strict=True):
        element = helper.np_dtype_to_tensor_dtype(array.dtype)
        assert types[name] == TensorType(element, array.shape), name


def test_open_sizes_keep_their_names_through_attention() -> None:
    types = infer_types(attention(size="batch,height,width"))
    assert types["z"] == TensorType(TensorProto.FLOAT, ("batch", "height", "width", 12))
    assert types["s"] == TensorType(TensorProto.INT64, (3,))
    assert types["r"].shape == ("batch", 1, 1, 12)


@pytest.mark.parametrize(
    ("qkv_scale", "out_scale", "given", "expected"),
    [
        (0.0, 0.0, "float16", TensorProto.FLOAT16),
        (0.0, 0.0, "bfloat16", TensorProto.BFLOAT16),
        (0.1, 0.1, "int8", TensorProto.INT8),
        (0.1, 0.0, "int8", TensorProto.FLOAT),
        (0.0, 0.1, "float", TensorProto.INT8),
    ],
)
def test_attention_keeps_the_type_unless_its_scales_say_otherwise(
    qkv_scale: float, out_scale: float, given: str, expected: int
) -> None:
    spec = replace(SPEC, qkv_quant_scale=qkv_scale, out_quant_scale=out_scale)
    assert infer_types(attention(spec, given))["z"] == TensorType(expected, (1, 5, 6, 12))


def test_weights_have_their_type_and_shape() -> None:
    types = infer_types(classifier())
    assert types["weight"] == TensorType(TensorProto.FLOAT, (5, 3))
    assert types["product"] == TensorType(TensorProto.FLOAT, ("batch", 3))


def test_what_is_unknown_is_told_apart_from_a_number() -> None:
    model = from_text("g (float[1] x, float[1] y) => (float[] z) { z = Add(x, y) }")
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ()))
    model.graph.input[1].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    types = infer_types(model)
    assert types["x"].shape == ()
    assert types["y"].shape is None
    assert types["z"].shape is None


def test_the_graph_is_left_alone() -> None:
    model = attention()
    before = model.SerializeToString()
    infer_types(model)
    assert model.SerializeToString() == before


def test_large_weights_are_not_needed_to_infer_types(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.ones((5, 3000), np.float32)
    model = classifier(weight=weight)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(3000, np.float32), "bias"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3000
    expected = infer_types(model)
    assert expected["logits"].shape == ("batch", 3000)
    seen = []
    infer = shapes.shape_inference.infer_shapes

    def spy(shadow: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
        seen.extend(tensor.name for tensor in shadow.graph.initializer)
        return infer(shadow, **options)

    monkeypatch.setattr(shapes.shape_inference, "infer_shapes", spy)
    monkeypatch.setattr(shapes, "MAX_INLINE_BYTES", 10)
    assert infer_types(model) == expected
    assert not seen


def test_a_malformed_attention_node_is_refused() -> None:
    model = attention()
    del attention_nodes(model)[0].attribute[0]
    with pytest.raises(GraphError, match="attention node attention: "):
        infer_types(model)


def test_a_graph_that_contradicts_itself_is_refused():
    model = from_text("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    model.graph.node[0].domain = "nowhere"
    with pytest.raises(GraphError, match=r"contradicts itself: .*No opset import for domain"):
        infer_types(model)
