"""Models in parts, against protobuf's own reader."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeattn.artifacts import Manifest
from edgeattn.graph import files
from edgeattn.graph.parts import copy_without, write_in_parts
from tests.graphs import from_text


def model_of(sizes: list[int]) -> onnx.ModelProto:
    model = from_text("g (float[1,4] x) => (float[1,4] y) { y = Neg(x) }")
    model.producer_name = "somebody"
    model.opset_import.append(helper.make_opsetid("other", 3))
    helper.set_model_props(model, {"note": "kept"})
    model.graph.doc_string = "a text"
    for number, size in enumerate(sizes):
        array = np.arange(size, dtype=np.uint8)
        model.graph.initializer.append(numpy_helper.from_array(array, f"w{number}"))
    return model


# Lengths whose protobuf form has one, two and three bytes, and none at all.
@pytest.mark.parametrize("sizes", [[], [0], [1, 100, 127, 128], [300, 16_400, 70_000]])
def test_what_is_written_in_parts_is_read_as_it_was(sizes):
    model, stream = model_of(sizes), io.BytesIO()
    before = model.SerializeToString(deterministic=True)
    write_in_parts(model, stream)
    assert onnx.load_from_string(stream.getvalue()) == model
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(onnx.load_from_string(stream.getvalue()))


def test_a_graph_with_large_weights_is_saved_in_parts(tmp_path, monkeypatch):
    wrote = []
    monkeypatch.setattr(files, "_AT_ONCE_BYTES", 300)
    monkeypatch.setattr(
        files, "write_in_parts", lambda *given: (wrote.append(1), write_in_parts(*given))
    )
    for name, size, parts in (("small.onnx", 300, 0), ("large.onnx", 301, 1)):
        model = model_of([size])
        files.save_graph(model, tmp_path / name, Manifest("graph"))
        assert files.load_graph(tmp_path / name) == model
        assert len(wrote) == parts


def test_a_copy_has_everything_but_what_it_is_to_be_without():
    model = model_of([5])
    bare = copy_without(model, "initializer", "node")
    assert len(bare.graph.initializer) == len(bare.graph.node) == 0
    for field in ("initializer", "node"):
        getattr(bare.graph, field).extend(getattr(model.graph, field))
    assert bare == model
