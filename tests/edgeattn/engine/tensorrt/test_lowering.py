"""Lowering for TensorRT: what the graph computes, which nodes do, what stands in the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgeattn
from edgeattn.engine.tensorrt import lowering
from edgeattn.engine.tensorrt.lowering import (
    AttentionWay,
    LoweredAttention,
    LoweredForTensorRt,
    lower_for_tensorrt,
)
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import BuildError, GraphError
from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.files import load_graph
from edgeattn.graph.fused_mha import NOT_HALF, QUERIES_APART
from edgeattn.graph.op import OP_DOMAIN, OP_TYPE, attention_nodes, spec_of_node
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.emulate_half import emulate_half
from edgeattn.graph.passes.fold_qdq import fold_attention_qdq
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.passes.pad_heads import PaddedHeads
from edgeattn.graph.placement import place_qdq
from edgeattn.models.registry import create_model, get_entry
from edgeattn.spec import AttentionSpec, HeadGroup
from tests import oracle
from tests.cases import NAMED_CASES, Case
from tests.edgeattn.graph.passes.test_decompose import attention_model, model_of
from tests.edgeattn.graph.passes.test_decompose import run as run_one
from tests.graph_runs import run, tensors_of
from tests.graphs import from_text
from tests.int8_oracle import quantized_case
from tests.quantization import block, floats, unit_scales, with_weights
from tests.quantized_attention import input_of, layer, quantized
from tests.tolerances import assert_close

FLOOR = TensorRtVersion(10, 3)
NEW = TensorRtVersion(10, 16)
WAYS: dict[AttentionWay, TensorRtVersion] = {"plugin": FLOOR, "native": FLOOR, "attention": NEW}
SWIN = Case(AttentionSpec(16, 4, (HeadGroup(2, 4, 2), HeadGroup(2, 3, 1, 2)), has_bias=True), 8, 9)

ways = pytest.mark.parametrize("way", WAYS)


def lower(model: onnx.ModelProto, way: AttentionWay = "plugin") -> LoweredForTensorRt:
    return lower_for_tensorrt(model, WAYS[way], way=way)


def kinds(lowered: LoweredForTensorRt, names: Iterable[str]) -> list[str]:
    by_name = {node.name: node.op_type for node in lowered.model.graph.node}
    return [by_name[name] for name in names]


def in_half(case: Case, element: int) -> onnx.ModelProto:
    """Make a graph of one attention node in a half type."""
    model = attention_model(case, dynamic=False)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = element
    return model


# --- what is computed -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES)
@ways
def test_every_way_computes_what_the_oracle_does(case: Case, way: AttentionWay) -> None:
    lowered = lower(attention_model(case, dynamic=case.width % 2 == 0), way)
    tensors = case.tensors("float32")
    expected = oracle.attention(case.spec, **{n: t.astype("float64") for n, t in tensors.items()})
    assert_close(run_one(decompose(lowered.model), tensors), expected, "attention", "float32")
    assert lowered.faults == ()


@pytest.mark.parametrize("name", ["odd_map_bias_kv_pad_then_roll", "grid_masked", "causal"])
@ways
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_int8_nodes_give_the_same_steps_but_for_rounded_probabilities(
    name: str, way: AttentionWay, dynamic: bool
) -> None:
    case = quantized_case(replace(NAMED_CASES[name], batch=2))
    model = model_of(case.spec, case.tensors, dynamic=dynamic)
    found = run_one(decompose(lower(model, way).model), case.tensors).astype(int)
    expected = run_one(decompose(model), case.tensors).astype(int)
    assert np.abs(found - expected).max() <= 1


# With free sizes or not. Exporting takes its time.
MODELS = [
    ("mswin_nano", False),
    ("pmsa_nano", False),
    ("msseq_nano", True),
    *(
        pytest.param(*model, marks=pytest.mark.slow)
        for model in (("mswin_nano", True), ("pmsa_nano", True), ("msseq_nano", False))
    ),
]
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8+fp16")
HALVES = {"fp16": "float16", "bf16": "bfloat16"}

# How far a way may be from the graph as any runtime computes it, in dB. FP16 and BF16 round each
# step of attention there and here alike, but not the same steps; INT8 rounds probabilities.
FLOORS = {"fp32": 90.0, "fp16": 55.0, "bf16": 33.0, "int8": 22.0, "int8+fp16": 20.0}


class Graphs:
    """The registry's smallest models, with and without free sizes, in each precision."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._float: dict[tuple[str, bool], onnx.ModelProto] = {}

    def float_graph(self, name: str, dynamic: bool) -> onnx.ModelProto:
        if (name, dynamic) not in self._float:
            model = create_model(name, weights="shipped")
            spec = get_entry(name).input
            path = edgeattn.export(model, spec, self._folder / "net.onnx", dynamic=dynamic)
            self._float[name, dynamic] = load_graph(path)
        return self._float[name, dynamic]

    def graph(self, name: str, dynamic: bool, precision: str) -> onnx.ModelProto:
        model = self.float_graph(name, dynamic)
        if precision.startswith("int8"):
            tensors = place_qdq(model, "attention").activations
            values = tensors_of(decompose(model), tensors, self.inputs(name, dynamic))
            scales = {
                name: float(np.float32(np.abs(array).max(initial=1e-6) / 127))
                for name, array in values.items()
            }
            model = insert_qdq(model, scales, "attention")[0]
        half = HALVES.get(precision.removeprefix("int8+"))
        return convert_to_half(model, half)[0] if half else model

    def inputs(self, name: str, dynamic: bool) -> dict[str, np.ndarray]:
        (value,) = self.float_graph(name, dynamic).graph.input
        return {value.name: floats(*get_entry(name).input.shape)}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    return Graphs(tmp_path_factory.mktemp("graphs"))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "dynamic"), MODELS)
def test_models_of_the_registry_survive_every_way(
    graphs: Graphs, name: str, precision: str, dynamic: bool
) -> None:
    model, inputs = graphs.graph(name, dynamic, precision), graphs.inputs(name, dynamic)
    (expected,) = run(emulate_half(decompose(model)), inputs)
    for way in WAYS:
        lowered = lower(model, way)
        assert lowered.precision == precision
        (found,) = run(emulate_half(decompose(lowered.model)), inputs)
        assert sqnr_db(expected, found) > FLOORS[precision]
        check_books(model, lowered)
        only_float = way == "attention" and precision.startswith("int8")
        assert all("no INT8 probabilities" in fault for fault in lowered.faults)
        assert len(lowered.faults) == (len(attention_nodes(model)) if only_float else 0)


def check_books(source: onnx.ModelProto, lowered: LoweredForTensorRt) -> None:
    names = [node.name for node in lowered.model.graph.node]
    assert len(set(names)) == len(names)
    assert "" not in names
    specs = [spec_of_node(node) for node in attention_nodes(source)]
    groups = [group for spec in specs for group in spec.head_groups]
    assert len(lowered.attention) == len(specs if lowered.way == "plugin" else groups)
    seen: set[str] = set()
    for attention in lowered.attention:
        assert set(attention.nodes) <= set(names)
        assert set(attention.core) <= set(attention.nodes)
        assert seen.isdisjoint(attention.core)
        seen |= set(attention.core)
        expected = {
            "plugin": [OP_TYPE],
            "native": ["MatMul", "Softmax", "MatMul"],
            "attention": ["Attention"],
        }[attention.way]
        assert kinds(lowered, attention.core) == expected


# --- the books ------------------------------------------------------------------------------------


def test_a_node_that_the_plugin_computes_is_one_entry_without_obstacles() -> None:
    (attention,) = lower(attention_model(SWIN, dynamic=False)).attention
    assert attention == LoweredAttention(
        "attention", False, "plugin", ("attention",), ("attention",), "float32", "float32", ()
    )


def test_native_attention_has_an_entry_for_each_head_group() -> None:
    lowered = lower(attention_model(SWIN, dynamic=False), "native")
    assert [each.name for each in lowered.attention] == ["attention, group 0", "attention, group 1"]
    assert {each.way for each in lowered.attention} == {"native"}
    for attention in lowered.attention:
        assert kinds(lowered, attention.core) == ["MatMul", "Softmax", "MatMul"]
    assert {name for each in lowered.attention for name in each.nodes} == {
        node.name for node in lowered.model.graph.node
    }


def test_a_node_of_one_group_keeps_its_name() -> None:
    lowered = lower(attention_model(NAMED_CASES["grid"], dynamic=False), "native")
    assert [each.name for each in lowered.attention] == ["attention"]


def test_neighborhoods_beside_windows_stay_native_where_the_others_become_attention() -> None:
    case = NAMED_CASES["neighborhood_beside_padded_blocks"]
    lowered = lower(attention_model(case, dynamic=False), "attention")
    assert [each.way for each in lowered.attention] == ["native", "attention"]
    assert QUERIES_APART in lowered.attention[0].obstacles


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
@ways
def test_types_of_half_attention_are_noted(way: AttentionWay, element: int) -> None:
    lowered = lower(in_half(SWIN, element), way)
    name = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}[element]
    assert {(each.in_type, each.out_type) for each in lowered.attention} == {(name, name)}
    assert {each.obstacles for each in lowered.attention} == {()}


OBSTACLES = {
    "float32": (SWIN, TensorProto.FLOAT, (NOT_HALF,)),
    "half": (SWIN, TensorProto.FLOAT16, ()),
    "cosine in half": (NAMED_CASES["cosine"], TensorProto.FLOAT16, ("heads have 4 channels",)),
    "narrow heads": (NAMED_CASES["grid"], TensorProto.FLOAT, ("16 to 256 in steps of 8", NOT_HALF)),
    "neighbors": (NAMED_CASES["neighborhood"], TensorProto.FLOAT16, (QUERIES_APART,)),
}


@pytest.mark.parametrize(("case", "element", "expected"), OBSTACLES.values(), ids=OBSTACLES)
def test_native_attention_says_what_tensorrt_has_against_fusing_it(
    case: Case, element: int, expected: tuple[str, ...]
) -> None:
    for attention in lower(in_half(case, element), "native").attention:
        assert len(attention.obstacles) == len(expected)
        for obstacle, part in zip(attention.obstacles, expected, strict=True):
            assert part in obstacle


def test_newer_versions_pad_heads() -> None:
    case = replace(SWIN, spec=replace(SWIN.spec, head_dim=20))
    model = in_half(case, TensorProto.FLOAT16)
    old, new = (lower_for_tensorrt(model, version, way="native") for version in (FLOOR, NEW))
    assert all("heads have 20 channels" in each.obstacles[0] for each in old.attention)
    assert {each.obstacles for each in new.attention} == {()}


def test_int8_that_may_fuse_has_no_obstacle_and_int8_that_may_not_says_why() -> None:
    for head_dim, fits in ((16, True), (24, False)):
        case = replace(SWIN, spec=replace(SWIN.spec, head_dim=head_dim))
        model, _ = quantized(layer(case), input_of(case))
        for attention in lower(model, "native").attention:
            assert (attention.in_type, attention.out_type) == ("int8", "int8")
            assert attention.asks_int8
            found = attention.obstacles
            assert found == () if fits else ("TensorRT fuses 16, 32 or 64 in INT8" in found[0])
            assert fits or found[1] == NOT_HALF


def test_attention_that_is_to_stay_in_float_beside_int8_layers_is_no_breach() -> None:
    model = layer(SWIN)
    linear, _ = insert_qdq(model, unit_scales(model, 0.05), "linear")
    for way in WAYS:
        lowered = lower(linear, way)
        assert lowered.faults == ()
        assert lowered.precision == "int8"
        assert not any(each.asks_int8 for each in lowered.attention)
        assert {each.obstacles for each in lowered.attention} <= {(), (NOT_HALF,)}


def test_q_and_dq_are_folded_into_the_node_that_the_plugin_computes() -> None:
    model, scales = quantized(layer(SWIN), input_of(SWIN))
    lowered = lower(model)
    (node,) = attention_nodes(lowered.model)
    spec = spec_of_node(node)
    assert spec.out_quant_scale == pytest.approx(scales["out"])
    made_by = {name: n.op_type for n in lowered.model.graph.node for name in n.output}
    assert made_by[node.input[0]] == "QuantizeLinear"
    (reader,) = (n for n in lowered.model.graph.node if node.output[0] in n.input)
    assert reader.op_type == "DequantizeLinear"
    (attention,) = lowered.attention
    assert (attention.in_type, attention.out_type) == ("int8", "int8")


# --- attention that the graph writes out ----------------------------------------------------------


@ways
def test_written_out_attention_is_in_the_books_whatever_becomes_of_nodes(way: AttentionWay) -> None:
    lowered = lower(block(), way)
    (attention,) = lowered.attention
    assert attention.written
    assert attention.way == "native"
    assert kinds(lowered, attention.nodes) == ["MatMul", "Softmax", "MatMul"]
    assert attention.core == attention.nodes
    assert attention.obstacles == (
        "its heads have 8 channels; TensorRT fuses 16 to 256"
        + (" in steps of 8" if way != "attention" else "")
        + " in FP16 and BF16",
        NOT_HALF,
    )


@ways
def test_written_out_int8_attention_that_cannot_fuse_is_released_and_says_so(
    way: AttentionWay,
) -> None:
    model = block()
    model, _ = insert_qdq(model, unit_scales(model, 0.05, "attention"), "attention")
    (attention,) = lower(model, way).attention
    assert attention.asks_int8
    assert attention.in_type == "float32"
    assert "TensorRT fuses 16, 32 or 64 in INT8" in attention.obstacles[0]


def test_written_out_attention_in_float_before_an_int8_layer_was_never_to_be_int8() -> None:
    model = block()
    model, _ = insert_qdq(model, unit_scales(model, 0.05), "linear")
    (attention,) = lower(model, "native").attention
    assert (attention.in_type, attention.out_type) == ("float32", "float32")
    assert not attention.asks_int8
    assert [obstacle.split(";")[0] for obstacle in attention.obstacles] == [
        "its heads have 8 channels",
        "its products are in float32",
    ]


def test_written_out_int8_attention_without_q_after_it_names_the_place() -> None:
    text = """g (float[1,2,9,16] q, float[1,2,9,16] k, float[1,2,9,16] v) => (float[1,2,9,16] y) {
        qq = QuantizeLinear(q, s, z)  qd = DequantizeLinear(qq, s, z)
        kq = QuantizeLinear(k, s, z)  kd = DequantizeLinear(kq, s, z)
        vq = QuantizeLinear(v, s, z)  vd = DequantizeLinear(vq, s, z)
        kt = Transpose<perm = [0, 1, 3, 2]>(kd)
        raw = MatMul(qd, kt)  weights = Softmax<axis = -1>(raw)
        wq = QuantizeLinear(weights, s, z)  wd = DequantizeLinear(wq, s, z)
        y = MatMul(wd, vd) }"""
    model = with_weights(text, {"s": np.array(0.02, np.float32), "z": np.array(0, np.int8)})
    (attention,) = lower(model, "native").attention
    assert attention.in_type == "int8"
    (obstacle,) = attention.obstacles
    assert obstacle.startswith("it has no Q/DQ at its output; TensorRT wants them")


def test_an_attention_operator_of_the_graphs_own_is_in_the_books() -> None:
    text = "g (float[1,2,9,%d] q) => (float[1,2,9,%d] y) { y = Attention(q, q, q) }"
    for channels, fits in ((32, True), (8, False)):
        model = from_text(text % (channels, channels))
        model.opset_import[0].version = 23
        (attention,) = lower(model, "attention").attention
        assert (attention.name, attention.written, attention.way) == ("y", True, "attention")
        assert (attention.obstacles == ()) is fits


# --- heads that the plugin does not take ----------------------------------------------------------

SWIN_IR = Case(AttentionSpec(30, 6, (HeadGroup(6, 8, 4),), has_bias=True), 16, 8)


@pytest.mark.parametrize(
    ("half", "element"), [("float16", TensorProto.FLOAT16), ("bfloat16", TensorProto.BFLOAT16)]
)
def test_heads_are_padded_for_the_plugin_in_half_and_the_books_say_so(
    half: str, element: int
) -> None:
    model = convert_to_half(layer(SWIN_IR, between="reshape"), half)[0]
    lowered = lower(model)
    (attention,) = lowered.attention
    assert attention.padded == PaddedHeads("attention", 30, 32, ())
    assert (attention.in_type, attention.core) == (half, ("attention",))
    assert lowered.faults == ()
    (node,) = attention_nodes(lowered.model)
    assert spec_of_node(node).head_dim == 32
    assert len(lowered.model.graph.node) == len(model.graph.node)
    x = {"x": input_of(SWIN_IR)}
    (expected,), (found,) = (run(emulate_half(decompose(m)), x) for m in (model, lowered.model))
    np.testing.assert_array_equal(found, expected)


def test_heads_of_the_other_ways_and_types_stay() -> None:
    model = layer(SWIN_IR)
    half = convert_to_half(model, "float16")[0]
    ways: list[tuple[onnx.ModelProto, AttentionWay]]
    ways = [(model, "plugin"), (half, "native"), (half, "attention")]
    for graph, way in ways:
        lowered = lower(graph, way)
        assert all(each.padded is None for each in lowered.attention)
        assert lowered.faults == ()


def test_padded_int8_heads_give_the_same_and_those_that_cannot_be_padded_are_a_fault() -> None:
    model, _ = quantized(layer(SWIN_IR), input_of(SWIN_IR))
    lowered = lower(model)
    (attention,) = lowered.attention
    assert (attention.in_type, str(attention.padded)[:22]) == ("int8", "heads of 30 channels a")
    (found,) = run(lowered.model, {"x": input_of(SWIN_IR)})
    (expected,) = run(fold_attention_qdq(model), {"x": input_of(SWIN_IR)})
    np.testing.assert_allclose(found, expected, atol=1e-5)

    case = quantized_case(SWIN_IR)  # the node alone: nothing rounds what it is given
    alone = lower(model_of(case.spec, case.tensors, dynamic=False))
    (fault,) = alone.faults
    assert fault.is_refused
    assert fault.startswith("attention: its heads have 30 channels; our kernel takes multiples of")


def test_heads_too_large_for_the_plugin_are_a_fault() -> None:
    case = Case(AttentionSpec(136, 1, (HeadGroup(1, 2),)), 2, 2)
    (fault,) = lower(in_half(case, TensorProto.FLOAT16)).faults
    assert fault == ("attention: its heads have 136 channels; our kernel takes up to 128 in FP16")
    assert lower(in_half(case, TensorProto.FLOAT)).faults == ()


# --- the precision asked for ----------------------------------------------------------------------


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("recipe", ["linear", "attention", "full"])
def test_int8_beside_a_half_type_is_named_with_it(half: str, recipe: str) -> None:
    model = block()
    model, _ = insert_qdq(model, unit_scales(model, 0.05, recipe), recipe)
    assert lower(model).precision == "int8"
    short = {"float16": "int8+fp16", "bfloat16": "int8+bf16"}[half]
    assert lower(convert_to_half(model, half)[0]).precision == short


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("g (float[2] x) => (float[2] y) { y = Neg(x) }", "fp32"),
        ("g (float16[2] x) => (float16[2] y) { y = Neg(x) }", "fp16"),
        ("g (bfloat16[2] x) => (bfloat16[2] y) { y = Neg(x) }", "bf16"),
        # What computes decides, and not what carries a picture in or a label out.
        (
            "g (float16[2,2] x) => (float[2,2] y) { a = Cast<to = 1>(x) b = Neg(a) "
            "y = MatMul(a, b) }",
            "fp32",
        ),
    ],
)
def test_the_precision_is_that_of_products_or_of_all_nodes_if_there_are_none(
    text: str, precision: str
) -> None:
    assert lower(from_text(text)).precision == precision


# --- faults ---------------------------------------------------------------------------------------


def test_int8_into_attention_and_float_out_of_it_computes_in_float_and_says_so() -> None:
    model, _ = quantized(layer(SWIN), input_of(SWIN))
    # The attention's output is read in float too, so that no Q can be folded into it.
    model.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, None))
    for way in ("plugin", "native"):
        (fault,) = lower(model, way).faults
        assert fault == (
            "attention: its input is INT8 and its output is not read in INT8 alone, "
            "so it computes in float"
        )


def test_the_plugins_fp16_is_cast_where_the_graph_has_float32() -> None:
    spec = replace(SWIN.spec, qkv_quant_scale=0.05)
    tensors = quantized_case(SWIN).tensors
    model = model_of(spec, tensors, dynamic=False)
    lowered = lower(model)
    assert lowered.faults == ()
    (attention,) = lowered.attention
    assert (attention.in_type, attention.out_type) == ("int8", "float16")
    node, cast = lowered.model.graph.node
    assert (node.output[0], cast.op_type, cast.output[0]) == (cast.input[0], "Cast", "out")
    found, expected = (run_one(decompose(m), tensors) for m in (lowered.model, model))
    np.testing.assert_array_equal(found, expected)


def test_tables_in_half_are_not_what_attention_takes() -> None:
    model = attention_model(SWIN, dynamic=False, constants=False)
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT16
    (fault,) = lower(model).faults
    assert fault == "attention: bias_table is float16; tables of attention are float32"


@ways
def test_sizes_of_a_dynamic_int8_graph_are_not_read_off_int8_tensors(way: AttentionWay) -> None:
    """TensorRT has no Shape of INT8 tensors."""
    case = quantized_case(SWIN)
    lowered = lower(model_of(case.spec, case.tensors, dynamic=True), way)
    assert not any("reads the INT8 tensor" in fault for fault in lowered.faults)
    reads = {n.input[0] for n in lowered.model.graph.node if n.op_type == "Shape"}
    assert "qkv" not in reads
    assert bool(reads) is (way != "plugin")


# --- the file and the versions --------------------------------------------------------------------


def test_a_function_of_the_plugins_name_is_dropped_and_others_stay() -> None:
    model = attention_model(SWIN, dynamic=False)
    opsets = [helper.make_opsetid("", 20)]
    for name in (OP_TYPE, "Other"):
        nodes = [helper.make_node("Identity", ["a"], ["b"])]
        model.functions.append(helper.make_function(OP_DOMAIN, name, ["a"], ["b"], nodes, opsets))
    for way in WAYS:
        assert [function.name for function in lower(model, way).model.functions] == ["Other"]
    assert len(model.functions) == 2


def test_nodes_without_a_name_get_one_and_the_given_graph_keeps_its_own() -> None:
    model = layer(SWIN)
    for node in model.graph.node:
        node.name = ""
    before = model.SerializeToString(deterministic=True)
    for way in WAYS:
        lowered = lower(model, way)
        assert all(node.name for node in lowered.model.graph.node)
        assert lowered.attention[0].name.startswith("out")
    assert model.SerializeToString(deterministic=True) == before


def test_attention_nodes_of_the_same_name_are_told_apart() -> None:
    model = layer(SWIN)
    (first,) = attention_nodes(model)
    second = onnx.NodeProto()
    second.CopyFrom(first)
    second.output[0] = "out_again"
    model.graph.node.append(second)
    model.graph.output.append(helper.make_tensor_value_info("out_again", TensorProto.FLOAT, None))
    for way in WAYS:
        lowered = lower(model, way)
        names = {each.name.split(",")[0] for each in lowered.attention}
        assert names == {"attention", "attention_2"}
        out, again = (run(lowered.model, {"x": input_of(SWIN)})[i] for i in (0, 1))
        assert out.shape != again.shape


def test_versions_without_the_operator_refuse_the_way() -> None:
    with pytest.raises(BuildError, match=r"TensorRT 10\.13\.3\.9 has no ONNX Attention") as caught:
        lower_for_tensorrt(
            attention_model(SWIN, dynamic=False), TensorRtVersion(10, 13, 3, 9), way="attention"
        )
    assert "natively" in caught.value.hint


def test_unsupported_versions_are_refused() -> None:
    with pytest.raises(BuildError, match="is not supported"):
        lower_for_tensorrt(attention_model(SWIN, dynamic=False), TensorRtVersion(8, 6))


@ways
def test_a_malformed_attention_node_is_refused(way: AttentionWay) -> None:
    model = attention_model(SWIN, dynamic=False)
    del model.graph.node[0].attribute[:]
    with pytest.raises(GraphError, match="attention node attention"):
        lower(model, way)


def test_the_graph_is_written_in_one_file(tmp_path: Path) -> None:
    lowered = lower(attention_model(SWIN, dynamic=False))
    path = lowered.save(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert load_graph(path) == lowered.model


def test_large_weights_go_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "MAX_INLINE_BYTES", 1000)
    lowered = lower(attention_model(SWIN, dynamic=False), "native")
    expected = onnx.ModelProto()
    expected.CopyFrom(lowered.model)
    path = lowered.save(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {path.name, f"{path.name}.data"}
    tensors = SWIN.tensors("float32")
    found = run_one(load_graph(path), tensors)
    np.testing.assert_array_equal(found, run_one(expected, tensors))
