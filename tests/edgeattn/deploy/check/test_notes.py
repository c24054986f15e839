"""What is worth knowing of a sound graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeattn.artifacts import Manifest
from edgeattn.deploy.check.check import check_graph
from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.graph.files import save_graph
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.cases import Case
from tests.edgeattn.deploy.check.graphs import free_the_batch, rounded, sound
from tests.graphs import from_text
from tests.quantization import with_weights
from tests.quantized_attention import layer


def notes(graph: onnx.ModelProto, folder: Path, **request: str) -> dict[str, list[GraphFinding]]:
    """List the notes of a graph by topic; there is nothing else."""
    path = folder / "net.onnx"
    if not path.exists():
        onnx.save(graph, path)
    asked = {"target": "jetson-orin-nano", "jetpack": "6.2"} | request
    found: dict[str, list[GraphFinding]] = {}
    for finding in check_graph(path, TensorRtRequest(**asked)).findings:  # type: ignore[arg-type]
        assert finding.level == "note", finding
        found.setdefault(finding.topic, []).append(finding)
    return found


def test_heads_that_are_padded_are_named_with_what_it_costs(tmp_path: Path) -> None:
    case = Case(AttentionSpec(30, 2, (HeadGroup(2, 4),)), 8, 8)
    graph = convert_to_half(layer(case), "float16")[0]
    (found,) = notes(graph, tmp_path)["attention"]
    assert found.node == "attention"
    assert found.reason.startswith("heads of 30 channels are padded to 32 with zeros: 7 % more")
    assert "--attention native" in found.fix


def test_int64_stays_int64(tmp_path: Path) -> None:
    graph = from_text("g (int64[4] tokens, float[9,3] rows) => (float[4,3] y, int64[4] z) "
                      "{ y = Gather(rows, tokens) z = Identity(tokens) }")  # fmt: skip
    found = notes(graph, tmp_path)["INT64"]
    assert [finding.node for finding in found] == ["tokens", "z"]
    assert "8 bytes" in found[0].fix


def test_sizes_that_depend_on_values(tmp_path: Path) -> None:
    graph = from_text("g (float[4,3] x) => (int64[2,N] y) { y = NonZero(x) }")
    graph.graph.node[0].name = "count"
    (found,) = notes(graph, tmp_path)["shapes"]
    assert found.node == "count"
    assert "CUDA graph" in found.fix


def test_the_shapes_of_the_export_are_named(tmp_path: Path) -> None:
    graph = sound()
    free_the_batch(graph)
    inputs = [{"name": "x", "dtype": "float32", "shape": [3, 8, 8, 32], "preprocess": None}]
    save_graph(graph, tmp_path / "net.onnx", Manifest("graph", options={"inputs": inputs}))
    (found,) = notes(graph, tmp_path)["shapes"]
    assert found.reason.endswith("the shapes of the export alone: x:3x8x8x32")


def test_float32_is_said_to_be_slow_where_it_is_most(tmp_path: Path) -> None:
    assert "2 of the 2 layers" in notes(sound(), tmp_path)["precision"][0].reason


def test_half_is_not(tmp_path: Path) -> None:
    half, _ = convert_to_half(sound(), "float16")
    assert "precision" not in notes(half, tmp_path)


def test_attention_that_tensorrt_may_fuse(tmp_path: Path) -> None:
    half, _ = convert_to_half(sound(), "float16")
    found = notes(half, tmp_path, attention="native")["attention"]
    assert [finding.node for finding in found] == ["attention, group 0", "attention, group 1"]
    assert all("may still decline" in finding.reason for finding in found)
    assert not any("INT8" in finding.reason for finding in found)


def test_attention_in_int8_on_orin_is_doubted(tmp_path: Path) -> None:
    names = ("query", "key", "value")
    text = "g (float16[1,2,64,32] query, float16[1,2,32,64] key, float16[1,2,64,32] value) "
    text += "=> (float16[1,2,64,32] y) { "
    for name in names:
        text += (
            f"{name}_q = QuantizeLinear({name}, s, z) {name}_d = DequantizeLinear({name}_q, s, z) "
        )
    text += "l = MatMul(query_d, key_d) p = Softmax(l) p_q = QuantizeLinear(p, s, z) "
    text += "p_d = DequantizeLinear(p_q, s, z) m = MatMul(p_d, value_d) "
    text += "m_q = QuantizeLinear(m, s, z) y = DequantizeLinear(m_q, s, z) }"
    graph = with_weights(text, {"s": np.float16(0.01), "z": np.int8(0)})
    (orin,) = notes(graph, tmp_path)["attention"]
    (thor,) = notes(graph, tmp_path, target="jetson-thor", jetpack="7.0")["attention"]
    assert "on Orin nobody is known to have seen it" in orin.reason
    assert "Orin" not in thor.reason


def test_an_int8_graph_has_the_plugins_note_alone(tmp_path: Path) -> None:
    graph = sound()
    rounded(np.int8(0))(graph)
    graph.graph.node.append(helper.make_node("Cast", ["y"], ["h"], "half", to=TensorProto.FLOAT16))
    graph.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT16, (1, 8, 8, 5)))
    assert notes(graph, tmp_path).keys() <= {"plugin", "precision"}
