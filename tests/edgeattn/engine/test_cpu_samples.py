"""Samples of a fixed batch run apart only where they depend on nothing but themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

import edgeattn
from edgeattn.artifacts import read_manifest
from edgeattn.engine.cpu_samples import samples_apart
from edgeattn.errors import EngineError
from edgeattn.graph.verify import run_graph

BATCH = 3


def graph_of(body: str) -> onnx.ModelProto:
    """Make a graph from `x` [3, 4, 2] to `y`; `shape` is a constant the body may use."""
    return parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        net (float[{BATCH}, 4, 2] x) => (float[{BATCH}, 8] y)
        <int64[2] shape = {{{BATCH}, 8}}, int64[1] zero = {{0}}, float three = {{3.0}},
         int64[3] split = {{{BATCH}, 2, 4}}, int64[2] tail = {{{BATCH}, -1}}>
        {{ {body} }}"""
    )


APART = {
    "a_constant_shape": "y = Reshape (x, shape)",
    "an_inferred_rest": "y = Reshape (x, tail)",
    "two_shapes": "a = Reshape (x, split) b = Relu (a) y = Reshape (b, shape)",
}
TOGETHER = {
    "a_mean_over_the_samples": "m = ReduceMean (x, zero) d = Sub (x, m) y = Reshape (d, shape)",
    "the_size_of_the_batch": """s = Shape <end = 1> (x) f = Cast <to = 1> (s)
                                d = Div (x, f) y = Reshape (d, shape)""",
    "expand": "e = Expand (x, shape_of_x) y = Reshape (e, shape)",
    "rows_that_mix": "t = Transpose <perm = [1, 0, 2]> (x) y = Reshape (t, shape)",
}


@pytest.mark.parametrize("body", APART.values(), ids=APART)
def test_a_freed_graph_takes_any_batch(body: str) -> None:
    model = graph_of(body)
    freed = samples_apart(model)
    assert freed is not None
    x = np.random.default_rng(0).standard_normal((5, 4, 2)).astype("float32")
    expected = np.concatenate(
        [run_graph(model, {"x": np.repeat(row[None], BATCH, 0)})[0][:1] for row in x]
    )
    np.testing.assert_array_equal(run_graph(freed, {"x": x})[0], expected)


@pytest.mark.parametrize("body", TOGETHER.values(), ids=TOGETHER)
def test_samples_that_depend_on_each_other_stay_together(body: str) -> None:
    constant = "shape_of_x = Constant <value_ints = [3, 4, 2]> () " if "Expand" in body else ""
    assert samples_apart(graph_of(constant + body)) is None


def test_a_graph_of_one_sample_is_left_alone() -> None:
    model = graph_of(APART["two_shapes"])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    assert samples_apart(model) is None


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_gives_each_sample_its_result(tmp_path: Path, threads: int) -> None:
    graph = tmp_path / "net.onnx"
    onnx.save(graph_of(APART["two_shapes"]), graph)
    plan = edgeattn.build(graph, tmp_path / "net.engine")
    assert read_manifest(plan).report["samples_apart"] == BATCH
    x = np.random.default_rng(1).standard_normal((BATCH, 4, 2)).astype("float32")
    expected = np.maximum(x, 0).reshape(BATCH, 8)
    engine = edgeattn.load(plan, threads=threads)
    assert engine.inputs[0].shape == (BATCH, 4, 2)
    assert engine.outputs[0].shape == (BATCH, 8)
    assert engine.settings["threads_share"] == "samples of the batch"
    np.testing.assert_array_equal(engine.run({"x": x})["y"], expected)
    query = engine.bind({"x": x})
    query()
    np.testing.assert_array_equal(query.outputs()["y"], expected)
    with pytest.raises(edgeattn.EdgeAttnError, match=f"expected {BATCH}"):
        engine.run({"x": x[:1]})
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run({"x": x})
