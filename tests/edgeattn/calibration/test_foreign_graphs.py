"""Other people's graphs through calibration and quantization.

Whatever wrote them, in whatever opset, with operators of their own: quantized they compute what
they did, up to the rounding, and what is not known is left as it was.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import edgeattn
from edgeattn.artifacts import read_manifest
from edgeattn.calibration.judge import OutputJudge
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import ArtifactError, EngineError, GraphError
from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.constants import subgraphs
from edgeattn.graph.files import input_specs, load_graph
from edgeattn.graph.nodes import standard_opset
from edgeattn.graph.op import attention_nodes
from edgeattn.graph.ort_session import LIBRARIES_VARIABLE
from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention
from edgeattn.graph.shapes import infer_types
from edgeattn.graph.verify import run_graph
from tests.custom_ops import compile_library, has_compiler
from tests.foreign_attention import CHANNELS, COLS, ROWS, expected, windowed
from tests.quantization import floats

# The least SQNR in dB of a graph of two or three small layers with random weights.
FLOORS = {"int8": 18.0, "fp16": 50.0, "bf16": 30.0, "int8+fp16": 18.0, "int8+bf16": 18.0}

Data = dict[str, np.ndarray]


def foreign(
    text: str, weights: Data, folder: Path, opset: int = 20, *domains: str, ir_version: int = 8
) -> Path:
    """Write a graph as another tool would: no manifest, domains of its own."""
    imports = ", ".join(f'"{name}" : {version}' for name, version in [("", opset)])
    imports += "".join(f', "{name}" : 1' for name in domains)
    model = parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{imports}]> {text}")
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
    path = folder / "theirs.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def outputs_db(graph: Path, quantized: Path, data: Data) -> float:
    """Compare a quantized file with its float file, on the worst floating output."""
    judge = OutputJudge(load_graph(graph), data)
    found = judge.outputs(load_graph(quantized))
    return min(
        sqnr_db(reference, found[name])
        for name, reference in judge.reference.items()
        if reference.dtype.kind == "f"
    )


def quantize_each_way(graph: Path, data: Data, **options) -> dict[str, Path]:
    table = edgeattn.calibrate(graph, data, method="minmax")
    written = {}
    for precision in FLOORS:
        output = graph.with_suffix(f".{precision}.onnx")
        needs_table = precision.startswith("int8")
        edgeattn.quantize(
            graph, output, precision=precision, table=table if needs_table else None, **options
        )
        written[precision] = output
    return written


# Opsets. Of these operators the form changed in between: axes of reductions, numbers of parts, and
# Softmax over all axes from one on.
OLD_FORM = """
g (float[N,4,8] x) => (float[N,6] y) {
    h = MatMul(x, w1)
    m = %s
    left, right = Split<axis = 1>(m)
    swapped = Concat<axis = 1>(right, left)
    p = Softmax<axis = 1>(swapped)
    y = MatMul(p, w2)
}
"""
OLD_WEIGHTS = {"w1": floats(8, 8), "w2": floats(8, 6)}


def test_every_opset_from_9_to_23_is_calibrated_and_quantized(tmp_path: Path) -> None:
    x = floats(9, 4, 8)
    tables = {}
    for opset in (9, 11, 13, 15, 17, 18, 20, 21, 23):
        weights = OLD_WEIGHTS
        if opset < 18:
            mean, split = "ReduceMean<axes = [1], keepdims = 0>(h)", "Split<axis = 1>"
        else:
            mean, split = "ReduceMean<keepdims = 0>(h, one)", "Split<axis = 1, num_outputs = 2>"
            weights = weights | {"one": np.array([1])}
        folder = tmp_path / str(opset)
        folder.mkdir()
        text = (OLD_FORM % mean).replace("Split<axis = 1>", split)
        graph = foreign(text, weights, folder, opset, ir_version=4 if opset < 13 else 10)
        for precision, written in quantize_each_way(graph, {"x": x}, recipe="full").items():
            assert outputs_db(graph, written, {"x": x}) > FLOORS[precision], (opset, precision)
            least = 19 if "+" in precision else 13
            found = standard_opset(load_graph(written))
            assert found == max(opset, least)
            assert read_manifest(written).report["opset"] == found
        tables[opset] = CalibTable.load(graph.with_suffix(".calib.json")).quant_scales
    # The same numbers go through the same tensors, whatever the opset.
    for scales in tables.values():
        assert scales == pytest.approx(tables[23], rel=1e-6)


def test_weights_that_are_listed_as_inputs_are_weights(tmp_path: Path) -> None:
    text = "g (float[N,8] x, float[8,6] w) => (float[N,6] y) { y = MatMul(x, w) }"
    graph = foreign(text, {"w": floats(8, 6)}, tmp_path, 13, ir_version=3)
    x = {"x": floats(5, 8)}
    for precision, written in quantize_each_way(graph, x).items():
        assert outputs_db(graph, written, x) > FLOORS[precision]
        assert [spec.name for spec in input_specs(load_graph(written))] == ["x"]
    weights = {t.name for t in load_graph(tmp_path / "theirs.int8.onnx").graph.initializer}
    assert "w_int8" in weights


def light_models() -> list[Path]:
    folder = Path(onnx.backend.test.__file__).parent / "data/light"
    return sorted(folder.glob("light_*.onnx"))


def one_light_model(name: str) -> list[object]:
    marks = [] if name in ("squeezenet", "shufflenet") else [pytest.mark.slow]
    return [
        pytest.param(path, marks=marks, id=name) for path in light_models() if name in path.name
    ]


LIGHT_NAMES = (
    *("alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet"),
    *("squeezenet", "vgg19", "zfnet512"),
)


@pytest.mark.parametrize("path", [p for name in LIGHT_NAMES for p in one_light_model(name)])
def test_onnx_own_models_of_opset_9_pass_all_verbs(path: Path, tmp_path: Path) -> None:
    graph = tmp_path / "light.onnx"
    graph.write_bytes(path.read_bytes())
    (spec,) = input_specs(load_graph(graph))
    rows = 2 * int(spec.shape[0])
    images = {spec.name: np.random.default_rng(0).random((rows, *spec.shape[1:]), np.float32)}
    table = edgeattn.calibrate(graph, images, method="minmax")
    quantized = edgeattn.quantize(graph, table=table)
    decisions = read_manifest(quantized).report["decisions"]
    left = [d for d in decisions if d["op_type"] == "Conv" and not d["quantized"]]
    reasons = ("its groups have", "the output layer on pooled features")
    assert all(any(why in decision["reason"] for why in reasons) for decision in left)
    assert any(decision["op_type"] == "Conv" and decision["quantized"] for decision in decisions)
    # All weights of these models are one number, so that rounding loses next to nothing.
    assert outputs_db(graph, quantized, images) > 30
    half = edgeattn.quantize(graph, precision="fp16", data=images)
    assert outputs_db(graph, half, images) > 30


# Operators of other people.

ISLANDS = """
g (float[N,8] x) => (float[N,6] y) {
    [first] a = MatMul(x, w1)
    [halve] b = theirs.Halve(a)
    [bend] c = Relu(b)
    [second] d = MatMul(c, w2)
    [again] e = theirs.Halve(d)
    [square] f = Mul(e, e)
    [third] y = MatMul(f, w3)
}
"""
ISLAND_WEIGHTS = {"w1": floats(8, 8), "w2": floats(8, 8), "w3": floats(8, 6)}


@pytest.fixture
def islands(tmp_path: Path) -> Path:
    return foreign(ISLANDS, ISLAND_WEIGHTS, tmp_path, 15, "theirs")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if not has_compiler():
        pytest.skip("needs a C compiler")
    path = compile_library(tmp_path)
    monkeypatch.setenv(LIBRARIES_VARIABLE, str(path))
    return path


def islands_of(x: np.ndarray) -> np.ndarray:
    """Compute `ISLANDS` in float64."""
    w1, w2, w3 = (w.astype(np.float64) for w in ISLAND_WEIGHTS.values())
    return np.square(np.maximum(x @ w1 / 2, 0) @ w2 / 2) @ w3


def test_types_behind_an_unknown_operator_follow_from_its_readers(islands: Path) -> None:
    elements = {name: found.element for name, found in infer_types(load_graph(islands)).items()}
    assert [elements.get(name) for name in "abcdefy"] == [TensorProto.FLOAT] * 7


def test_a_type_that_nothing_implies_stays_unknown(tmp_path: Path) -> None:
    text = """g (float[N,8] x, int64[N,8] i) => (float[N,6] y, float[N,8] v) {
        a, b = theirs.Split(x)
        v = theirs.Join(b)
        c = Add(b, b)
        d = theirs.Take(c)
        n = theirs.Count(i)
        m = Add(n, i)
        s = Shape(d)
        y = MatMul(x, w) }"""
    types = infer_types(load_graph(foreign(text, {"w": floats(8, 6)}, tmp_path, 20, "theirs")))
    assert not {"a", "b", "c", "d"} & types.keys()
    assert types["n"].element == types["m"].element == TensorProto.INT64


@pytest.mark.parametrize("precision", FLOORS)
def test_unknown_operators_keep_float32_around_them(
    islands: Path, library: Path, precision: str
) -> None:
    x = {"x": floats(7, 8)}
    written = quantize_each_way(islands, x, recipe="full")[precision]
    model = load_graph(written)
    types = {name: found.element for name, found in infer_types(model).items()}
    made = {name: node for node in model.graph.node for name in node.output}
    found = [node for node in model.graph.node if node.domain == "theirs"]
    assert [node.name for node in found] == ["halve", "again"]
    for node in found:
        assert types[node.input[0]] == TensorProto.FLOAT
        assert types.get(node.output[0], TensorProto.FLOAT) == TensorProto.FLOAT
        assert made[node.input[0]].op_type != "DequantizeLinear"
    assert outputs_db(islands, written, x) > FLOORS[precision]
    report = read_manifest(written).report
    entries = [*report.get("decisions", []), *report.get("node_types", [])]
    reasons = {entry["reason"] for entry in entries if entry["op_type"] == "Halve"}
    assert reasons == {"nothing is known of the operator theirs::Halve"}


def test_their_library_serves_every_verb(islands: Path, library: Path) -> None:
    x = floats(20, 8)
    table = edgeattn.calibrate(islands, {"x": x})
    np.testing.assert_allclose(
        CalibTable.load(table).tensors["f"].observed.amax,
        np.square(np.maximum(x @ ISLAND_WEIGHTS["w1"] / 2, 0) @ ISLAND_WEIGHTS["w2"] / 2).max(),
        rtol=1e-5,
    )
    found = edgeattn.sensitivity(islands, table, {"x": x})
    assert {effect.name for effect in found.layers} == {"first", "second", "third"}
    quantized = edgeattn.quantize(islands, table=table, data={"x": x}, correct_bias=True)
    engine = edgeattn.build(quantized, engine="cpu")
    with edgeattn.load(engine) as opened:
        y = opened.run({"x": x})["y"]
    assert sqnr_db(islands_of(x).astype(np.float32), y) > FLOORS["int8"]


def test_without_a_library_one_sentence_says_what_is_missing(
    islands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LIBRARIES_VARIABLE, raising=False)
    message = "knows no operator theirs::Halve, which the graph holds"
    with pytest.raises(GraphError, match=message) as caught:
        edgeattn.calibrate(islands, {"x": floats(4, 8)})
    assert LIBRARIES_VARIABLE in caught.value.hint
    with pytest.raises(EngineError, match=message):
        edgeattn.build(islands, engine="cpu")
    # Nothing runs for this, so that nothing is missing.
    half = edgeattn.quantize(islands, precision="fp16")
    assert read_manifest(half).report["half_nodes"] == 3


def test_a_library_that_is_none_is_refused(
    islands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = {"x": floats(4, 8)}
    monkeypatch.setenv(LIBRARIES_VARIABLE, str(tmp_path / "nowhere.so"))
    with pytest.raises(ArtifactError, match=r"names .*nowhere.so, and there is no such file"):
        edgeattn.calibrate(islands, x)
    monkeypatch.setenv(LIBRARIES_VARIABLE, os.pathsep.join(["", str(islands)]))
    with pytest.raises(ArtifactError, match=r"theirs.onnx, which is no library of operators"):
        edgeattn.build(islands, engine="cpu")


# What else graphs hold.


def test_layers_around_functions_of_the_graphs_own_are_quantized(tmp_path: Path) -> None:
    text = """g (float[N,8] x) => (float[N,6] y) {
        a = MatMul(x, w1) b = theirs.Bend(a) y = MatMul(b, w2) }"""
    weights = {"w1": floats(8, 8), "w2": floats(8, 6)}
    graph = foreign(text, weights, tmp_path, 19, "theirs")
    model = onnx.load(graph)
    nodes = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Mul", ["a", "r"], ["b"])]
    opsets = [helper.make_opsetid("", 19)]
    model.functions.append(helper.make_function("theirs", "Bend", ["a"], ["b"], nodes, opsets))
    graph.write_bytes(model.SerializeToString())
    x = {"x": floats(7, 8)}
    for precision, written in quantize_each_way(graph, x).items():
        assert outputs_db(graph, written, x) > 0.6 * FLOORS[precision]
    table = graph.with_suffix(".calib.json")
    corrected = edgeattn.quantize(graph, table=table, data=x, correct_bias=True)
    assert outputs_db(graph, corrected, x) > 0.6 * FLOORS["int8"]


CONTROL_FLOW = """
g (float[N,8] x, bool[N] flag) => (float[N,6] y) {
    a = MatMul(x, w1)
    ones = Cast<to = 6>(flag)
    any = ReduceMax<keepdims = 0>(ones)
    chosen = Cast<to = 9>(any)
    b = If(chosen) <then_branch = t () => (float[N,8] p) { p = MatMul(a, w2) },
                    else_branch = e () => (float[N,8] q) { q = Mul(a, a) }>
    times = Constant<value = int64 {3}>()
    on = Constant<value = bool {1}>()
    l = Loop(times, on, b) <body = body (int64 i, bool go, float[N,8] u) => (bool so, float[N,8] v)
        { so = Identity(go) m = MatMul(u, w2) v = Tanh(m) }>
    pair = SequenceConstruct(l, a)
    first = Constant<value = int64 {0}>()
    c = SequenceAt(pair, first)
    d = MatMul(c, w3)
    also = SequenceAt(pair, first)
    s = Concat<axis = 1>(d, also)
    y = MatMul(s, w4)
}
"""


def test_bodies_of_control_flow_and_sequences_are_left_as_they_are(tmp_path: Path) -> None:
    weights = {"w1": floats(8, 8), "w2": floats(8, 8) / 3, "w3": floats(8, 6)}
    weights["w4"] = np.abs(floats(14, 6))
    graph = foreign(CONTROL_FLOW, weights, tmp_path)
    x = {"x": floats(6, 8), "flag": np.array([True, False, True, True, False, False])}
    bodies = [b for n in load_graph(graph).graph.node for b in subgraphs(n)]
    for precision, written in quantize_each_way(graph, x, recipe="full").items():
        assert outputs_db(graph, written, x) > 0.6 * FLOORS[precision], precision
        kept = [b for n in load_graph(written).graph.node for b in subgraphs(n)]
        assert [[n.op_type for n in b.node] for b in kept] == [
            [n.op_type for n in b.node] for b in bodies
        ]
        assert "w2" in {t.name for t in load_graph(written).graph.initializer}
    table = graph.with_suffix(".calib.json")
    corrected = edgeattn.quantize(graph, table=table, data=x, correct_bias=True)
    assert outputs_db(graph, corrected, x) > 0.6 * FLOORS["int8"]


def test_inputs_of_every_type_are_fed_and_keep_their_type(tmp_path: Path) -> None:
    text = """g (float[N,8] x, int64[N,3] ids, double[N,8] d, uint8[N,8] u, bool[N,1] b)
            => (float[N,6] y, int64[N,3] z) {
        e = Gather(words, ids) m = ReduceMean<keepdims = 0>(e, one) f = Cast<to = 1>(d)
        p = Cast<to = 1>(u) q = Div(p, all) s = Add(x, f) t = Add(s, q) o = Where(b, t, s)
        h = MatMul(o, w1) k = Add(h, m) y = MatMul(k, w2) z = Add(ids, ids) }"""
    weights = {"words": floats(5, 8), "one": np.array([1]), "all": np.float32(255)}
    weights |= {"w1": floats(8, 8), "w2": floats(8, 6)}
    graph = foreign(text, weights, tmp_path)
    rng = np.random.default_rng(1)
    data = {
        "x": floats(9, 8),
        "ids": rng.integers(0, 5, (9, 3)),
        "d": rng.standard_normal((9, 8)),
        "u": rng.integers(0, 256, (9, 8), np.uint8),
        "b": rng.integers(0, 2, (9, 1)) > 0,
    }
    before = [(spec.name, spec.dtype) for spec in input_specs(load_graph(graph))]
    for precision, written in quantize_each_way(graph, data).items():
        model = load_graph(written)
        assert [(spec.name, spec.dtype) for spec in input_specs(model)] == before
        assert outputs_db(graph, written, data) > FLOORS[precision]
    # Random bytes are pixels, other random integers indices.
    edgeattn.calibrate(graph, random=8)
    assert CalibTable.load(graph.with_suffix(".calib.json")).tensors["o"].observed.amax > 1


def test_detections_whose_number_varies_do_not_hinder_judging_the_floats(tmp_path: Path) -> None:
    text = """g (float[N,6,8] x) => (int64[K,3] kept, float[N,6,4] boxes) {
        boxes = MatMul(x, w1) s = MatMul(x, w2) scores = Transpose<perm = [0, 2, 1]>(s)
        most = Constant<value = int64[1] {6}>() overlap = Constant<value = float[1] {0.1}>()
        least = Constant<value = float[1] {0.5}>()
        kept = NonMaxSuppression(boxes, scores, most, overlap, least) }"""
    graph = foreign(text, {"w1": floats(8, 4), "w2": floats(8, 2)}, tmp_path)
    data = {"x": floats(20, 6, 8)}
    table = edgeattn.calibrate(graph, data)
    assert CalibTable.load(table).manifest.report["choice"]
    found = edgeattn.sensitivity(graph, table, data)
    assert np.isfinite(found.layers[0].alone.sqnr_db)
    gated = edgeattn.quantize(graph, table=table, data=data, min_sqnr=20)
    assert read_manifest(gated).report["gate"]["met"]


def test_sequences_that_a_graph_gives_out_are_not_judged(tmp_path: Path) -> None:
    text = """g (float[N,8] x) => (seq(float[N,8]) both, float[N,6] y) {
        a = MatMul(x, w1) both = SequenceConstruct(a, x) y = MatMul(a, w2) }"""
    weights = {"w1": floats(8, 8), "w2": floats(8, 6)}
    graph = foreign(text, weights, tmp_path)
    data = {"x": floats(20, 8)}
    found = edgeattn.sensitivity(graph, edgeattn.calibrate(graph, data), data)
    assert {len(effect.nodes) for effect in found.layers} == {1}
    assert list(OutputJudge(load_graph(graph), data).reference) == ["y"]


def test_fused_attention_beside_control_flow_and_operators_inside_it(tmp_path: Path) -> None:
    model = fuse_window_attention(windowed()).model
    assert attention_nodes(model)
    # A body with a weight and an operator that nothing outside it uses.
    lines = f"""g (float[1,{ROWS},{COLS},{CHANNELS}] y) => (float[1,{ROWS},{COLS},{CHANNELS}] z) {{
        most = ReduceMax<keepdims = 0>(y)
        large = Greater(most, zero)
        z = If(large) <
            then_branch = t () => (float[1,{ROWS},{COLS},{CHANNELS}] p)
                {{ p = com.microsoft.BiasGelu(y, inner) }},
            else_branch = e () => (float[1,{ROWS},{COLS},{CHANNELS}] q)
                {{ q = Add(y, inner) }}> }}"""
    after = parser.parse_graph(lines)
    model.graph.node.extend(after.node)
    model.graph.output[0].CopyFrom(after.output[0])
    inner = np.linspace(-1, 1, CHANNELS, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(inner, "inner"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    model.opset_import.add(domain="com.microsoft", version=1)
    graph = tmp_path / "theirs.onnx"
    graph.write_bytes(model.SerializeToString())
    data = {"x": floats(6, ROWS, COLS, CHANNELS)}
    for precision, written in quantize_each_way(graph, data, recipe="attention").items():
        assert outputs_db(graph, written, data) > FLOORS[precision], precision
    (z,) = run_graph(load_graph(graph), {"x": data["x"][:1]})
    y = expected(data["x"][:1]).astype(np.float64) + inner
    gelu = np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))))
    np.testing.assert_allclose(z, gelu(y), rtol=1e-4, atol=1e-5)
