"""A simplified graph is kept only if it is the same graph in fewer nodes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import edgeattn
from edgeattn.artifacts import read_manifest
from edgeattn.graph import simplify as simplify_module
from edgeattn.graph.files import load_graph
from edgeattn.graph.op import attention_nodes, make_attention_node, spec_of_node
from edgeattn.graph.simplify import Simplification, simplify
from edgeattn.graph.verify import run_graph
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.graphs import from_text
from tests.tiny import INPUT, tiny

SPEC = AttentionSpec(4, 2, (HeadGroup(2, (2, 3)),))
X = np.random.default_rng(1).standard_normal((1, 4, 6, 24)).astype(np.float32)


def graph() -> onnx.ModelProto:
    """Attention on the input, then two steps that a simplifier can join."""
    model = from_text(
        "g (float[1,4,6,24] x) => (float[1,4,6,8] y) { a = Identity(x) b = Mul(a, s) y = Neg(b) }"
    )
    node = make_attention_node(SPEC, ["x"], "attended", "attention")
    model.graph.node.insert(0, node)
    model.graph.node[1].input[0] = "attended"
    model.opset_import.append(helper.make_opsetid("edgeattn", 1))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([2]), "s"))
    return model


def outcome_of(model: onnx.ModelProto | None = None) -> Simplification:
    model = model or graph()
    return simplify(model, {"x": X}, run_graph(graph(), {"x": X}))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Put something else in the place of onnxsim."""

    def install(change: Callable[[onnx.ModelProto], None]) -> None:
        def simplify(model: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, bool]:
            candidate = onnx.ModelProto()
            candidate.CopyFrom(model)
            change(candidate)
            return candidate, True

        monkeypatch.setitem(sys.modules, "onnxsim", SimpleNamespace(simplify=simplify))

    return install


def raises(model: onnx.ModelProto) -> None:
    raise RuntimeError("unknown operator\nat line 3")


def drops_attention(model: onnx.ModelProto) -> None:
    """Replace it by what has the same shape."""
    (node,) = attention_nodes(model)
    index = helper.make_node("Gather", ["x", "first"], ["attended"], axis=3)
    node.CopyFrom(index)
    model.graph.initializer.append(numpy_helper.from_array(np.arange(8), "first"))


def changes_a_window(model: onnx.ModelProto) -> None:
    (node,) = attention_nodes(model)
    other = AttentionSpec(4, 2, (HeadGroup(2, (2, 2)),))
    node.CopyFrom(make_attention_node(other, node.input, node.output[0], node.name))


def changes_numbers(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = np.float32([2.001]).tobytes()


def makes_nan(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = np.float32([np.nan]).tobytes()


def renames_an_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "z"


def renames_an_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = attention_nodes(model)[0].input[0] = "z"


def fixes_a_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def frees_an_axis(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "made_up"


def breaks_the_graph(model: onnx.ModelProto) -> None:
    model.graph.node[-1].input[0] = "nothing"


FAULTS = {
    raises: "onnxsim failed: RuntimeError: unknown operator",
    drops_attention: "onnxsim changed the attention nodes: 1 before, 0 after",
    changes_a_window: "onnxsim changed the attention nodes: 1 before, 1 after",
    changes_numbers: "the simplified graph gives other numbers: 5.0e-04 relative",
    makes_nan: "the simplified graph gives other numbers: inf relative",
    renames_an_output: "onnxsim changed the outputs from [('y', 'float32', (1, 4, 6, 8))] to",
    renames_an_input: "onnxsim changed the inputs from",
    fixes_a_shape: "onnxsim changed the outputs from",
    frees_an_axis: "onnxsim changed the outputs from",
    breaks_the_graph: "the simplified graph does not run: ",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_simplification_is_dropped_and_the_reason_told(
    fake: Callable[..., None], fault: Callable[..., None]
) -> None:
    fake(fault)
    given = graph()
    outcome = outcome_of(given)
    assert outcome.model is given
    assert not outcome.applied
    assert FAULTS[fault] in outcome.reason
    assert "\n" not in outcome.reason
    assert outcome.nodes_before == outcome.nodes_after == 4


def test_a_harmless_change_is_kept(fake: Callable[..., None]) -> None:
    def joins(model: onnx.ModelProto) -> None:
        del model.graph.node[1]
        model.graph.node[1].input[0] = "attended"

    fake(joins)
    outcome = outcome_of()
    assert (outcome.applied, outcome.reason) == (True, "")
    assert (outcome.nodes_before, outcome.nodes_after) == (4, 3)


def test_a_size_that_the_exporter_only_named_may_become_known(fake: Callable[..., None]) -> None:
    def settles(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1

    fake(settles)
    given = graph()
    given.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "Gemm1679_dim_0"
    assert outcome_of(given).applied
    given.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "Gemm1679_dim_0"
    assert "changed the outputs" in outcome_of(given).reason


def test_onnxsim_itself_simplifies_and_leaves_the_given_graph_alone() -> None:
    given = graph()
    before = given.SerializeToString()
    outcome = outcome_of(given)
    assert given.SerializeToString() == before
    assert outcome.applied
    assert outcome.nodes_after == 3
    assert [spec_of_node(n) for n in attention_nodes(outcome.model)] == [SPEC]


def test_a_linear_layer_on_a_map_stays_one_product_and_one_sum() -> None:
    model = from_text(
        "g (float[2,3,4,5] x) => (float[2,3,4,6] y) { p = MatMul(x, w) y = Add(p, b) }"
    )
    for name, shape in (("w", (5, 6)), ("b", (6,))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    x = np.ones((2, 3, 4, 5), np.float32)
    outcome = simplify(model, {"x": x}, [np.full((2, 3, 4, 6), 6, np.float32)])
    assert [node.op_type for node in outcome.model.graph.node] == ["MatMul", "Add"]


def test_without_onnxsim_the_graph_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    outcome = outcome_of()
    assert not outcome.applied
    assert "onnxsim cannot be imported" in outcome.reason


def test_a_graph_beyond_protobufs_limit_is_not_given_to_onnxsim(
    monkeypatch: pytest.MonkeyPatch, fake: Callable[..., None]
) -> None:
    fake(lambda model: pytest.fail("called"))
    monkeypatch.setattr(simplify_module, "MAX_INLINE_BYTES", 3)
    assert "2 GB" in outcome_of().reason


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (raises, "onnxsim failed"),
        (lambda model: model.graph.node.remove(attention_nodes(model)[1]), "attention nodes: 2"),
        (renames_an_output, "changed the outputs"),
    ],
    ids=["raises", "drops attention", "renames an output"],
)
def test_an_export_keeps_the_unsimplified_graph_and_tells_why(
    tmp_path: Path, fake: Callable[..., None], fault: Callable[..., None], reason: str
) -> None:
    plain = edgeattn.export(tiny(), INPUT, tmp_path / "plain.onnx", simplify=False)
    fake(fault)
    path = edgeattn.export(tiny(), INPUT, tmp_path / "net.onnx")
    assert load_graph(path).graph == load_graph(plain).graph
    told = read_manifest(path).report["simplified"]
    assert told["applied"] is False
    assert reason in told["reason"]
    assert "simplified" not in read_manifest(plain).report


def test_nodes_that_the_simplifier_made_are_named_after_modules_too(
    tmp_path: Path, fake: Callable[..., None]
) -> None:
    def splits_the_head(model: onnx.ModelProto) -> None:
        head = next(node for node in model.graph.node if node.name == "head/Gemm")
        first = helper.make_node("Identity", ["made"], ["again"])
        second = helper.make_node("Identity", ["again"], list(head.output), name="x")
        head.output[0] = "made"
        model.graph.node.extend([first, second])

    fake(splits_the_head)
    graph = load_graph(edgeattn.export(tiny(), INPUT, tmp_path / "net.onnx"))
    names = [node.name for node in graph.graph.node][-3:]
    assert names == ["head/Gemm", "head/Identity", "head/Identity_2"]
