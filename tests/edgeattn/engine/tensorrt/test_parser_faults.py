"""What TensorRT refuses in a graph, found before it sees one."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from edgeattn.engine.tensorrt.parser_faults import parser_faults
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.graph.shapes import infer_types
from tests.cases import NAMED_CASES
from tests.edgeattn.graph.passes.test_decompose import attention_model
from tests.graphs import from_text
from tests.quantization import block
from tests.quantized_attention import input_of, layer, quantized

FLOOR = TensorRtVersion(10, 3)


def faults_of(model: onnx.ModelProto, version: TensorRtVersion = FLOOR) -> list[str]:
    return list(parser_faults(model, infer_types(model), version))


def one_node(
    op_type: str, domain: str = "", element: int = TensorProto.FLOAT, rank: int = 1
) -> onnx.ModelProto:
    shape = ", ".join(["2"] * rank)
    model = from_text(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Neg(x) }}")
    node = model.graph.node[0]
    node.op_type, node.domain, node.name = op_type, domain, "node"
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = element
    return model


def test_graphs_that_tensorrt_takes_have_no_fault() -> None:
    model = attention_model(NAMED_CASES["grid"], dynamic=True)
    case = NAMED_CASES["odd_map_mask_pad_then_roll"]
    for graph in (model, block(), quantized(layer(case), input_of(case))[0]):
        assert faults_of(graph) == []


@pytest.mark.parametrize(
    ("version", "opset", "newest"),
    [((10, 3), 21, 20), ((10, 13, 3, 9), 23, 20), ((10, 14), 25, 24), ((11, 1), 25, 24)],
)
def test_an_opset_that_the_parser_is_not_documented_for(version, opset, newest) -> None:
    model = one_node("Neg")
    model.opset_import[0].version = newest
    assert faults_of(model, TensorRtVersion(*version)) == []
    model.opset_import[0].version = opset
    (fault,) = faults_of(model, TensorRtVersion(*version))
    assert fault == (
        f"the graph has opset {opset}; TensorRT {TensorRtVersion(*version)} is documented for "
        f"opsets up to {newest}"
    )


@pytest.mark.parametrize("op_type", ["Det", "Unique", "BitShift", "StringConcat"])
def test_operators_that_no_version_has(op_type: str) -> None:
    for version in (FLOOR, TensorRtVersion(11, 4)):
        assert faults_of(one_node(op_type), version) == [f"node: TensorRT has no {op_type}"]


@pytest.mark.parametrize(
    ("op_type", "first"),
    [("Attention", "10.14"), ("RMSNormalization", "10.15"), ("RotaryEmbedding", "10.15")],
)
def test_operators_that_came_later(op_type: str, first: str) -> None:
    model = one_node(op_type, rank=4)
    assert faults_of(model, TensorRtVersion.parse(first)) == []
    (fault,) = faults_of(model, TensorRtVersion(10, 13, 3, 9))
    assert fault == f"node: TensorRT has {op_type} from {first} on, not in 10.13.3.9"


def test_operators_of_other_domains_need_a_plugin() -> None:
    (fault,) = faults_of(one_node("FusedMatMul", "com.microsoft"))
    assert fault == (
        "node: com.microsoft::FusedMatMul is no ONNX operator; it needs a plugin of that name"
    )
    model = one_node("Neg")
    model.graph.node[0].domain = model.opset_import[0].domain = "ai.onnx"
    assert faults_of(model) == []


def test_operators_that_the_graph_defines_itself_need_none() -> None:
    model = one_node("Twice", "mine")
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, opsets))
    assert faults_of(model) == []


@pytest.mark.parametrize("element", [TensorProto.INT16, TensorProto.UINT64, TensorProto.COMPLEX64])
def test_types_that_tensorrt_does_not_have(element: int) -> None:
    name = TensorProto.DataType.Name(element).lower()
    assert faults_of(one_node("Neg", element=element)) == [
        f"node: it gives {name}, a type that TensorRT does not have",
        f"the input x is {name}, a type that TensorRT does not have",
    ]


def test_float64_is_silently_computed_in_float32() -> None:
    assert faults_of(one_node("Neg", element=TensorProto.DOUBLE)) == [
        "node: it gives float64, which TensorRT computes in float32",
        "the input x is float64, which TensorRT computes in float32",
    ]


def test_a_weight_that_is_also_an_input_is_no_input() -> None:
    model = one_node("Neg")
    weight = helper.make_tensor("w", TensorProto.INT16, [1], [3])
    model.graph.initializer.append(weight)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.INT16, [1]))
    assert faults_of(model) == []


SCALED = """g (float[2,3] x, float s) => (float[2,3] y) {
    positive = Abs(s)
    q = QuantizeLinear(x, positive, z)
    y = DequantizeLinear(q, positive, z) }"""


def test_scales_computed_at_run_time_are_refused_by_10_and_taken_by_11() -> None:
    model = from_text(SCALED)
    model.graph.initializer.append(helper.make_tensor("z", TensorProto.INT8, [], [0]))
    faults = faults_of(model)
    assert len(faults) == 2
    assert all("computed at run time; TensorRT 10 wants a constant" in fault for fault in faults)
    assert faults_of(model, TensorRtVersion(11, 1)) == []


def test_a_weight_of_a_type_that_tensorrt_does_not_have() -> None:
    model = from_text("g (float[2] x) => (float[2] y) { c = Cast<to = 1>(w) y = Add(x, c) }")
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.UINT16, [2], [3, 4]))
    (fault,) = parser_faults(model, infer_types(model), FLOOR)
    assert fault == "the weight w is uint16, a type that TensorRT does not have"
    assert (fault.topic, fault.is_refused) == ("type", True)


def test_the_body_of_a_function_is_looked_into() -> None:
    model = one_node("Chance", "mine")
    body = [helper.make_node("Bernoulli", ["a"], ["b"], "inner")]
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("mine", "Chance", ["a"], ["b"], body, opsets))
    assert faults_of(model) == ["node: its body has inner: TensorRT has no Bernoulli"]


def test_operators_that_no_list_names() -> None:
    assert faults_of(one_node("Unheard")) == ["node: TensorRT's list of operators has no Unheard"]


def test_inputs_of_other_types_than_the_first_are_not_held_to_its_list() -> None:
    text = "g (float[4,3] x, int64[2] i, bool[4,3] b) => (float[2,3] y, float[4,3] z) "
    model = from_text(text + "{ y = Gather(x, i) z = Where(b, x, x) }")
    assert faults_of(model) == []
    mixed = from_text("g (float[2] x, int64[2] n) => (float[2] y) { y = Pow(x, n) }")
    assert faults_of(mixed) == []
    whole = from_text("g (int64[2] n) => (int64[2] y) { y = Pow(n, n) }")
    whole.graph.node[0].name = "pow"
    assert faults_of(whole) == ["pow: it reads n in INT64; TensorRT takes FP32, FP16, BF16"]
    assert faults_of(whole, TensorRtVersion(10, 12)) == []


@pytest.mark.parametrize(("element", "name"), [(TensorProto.INT8, "INT8"), (17, "FP8")])
def test_integers_and_eighths_are_made_by_quantizing_not_by_casting(
    element: int, name: str
) -> None:
    model = from_text(
        f"g (float[2] x) => (float[2] y) {{ c = Cast<to = {element}>(x) y = Neg(x) }}"
    )
    faults = faults_of(model)
    assert faults == [
        f"c: it gives {name}; TensorRT takes FP32, FP16, BF16, INT32, INT64, UINT8, BOOL"
    ]
