"""A graph looked at in one size: values that are computed, dropped, computed again."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from edgeattn.graph.fusion import probe as probe_module
from edgeattn.graph.fusion.probe import Probe, run_node
from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention
from tests.foreign_attention import windowed
from tests.graphs import from_text
from tests.quantization import with_weights


def test_large_values_are_dropped_and_give_the_same_when_asked_for_again(monkeypatch):
    monkeypatch.setattr(probe_module, "_LARGE_BYTES", 100)
    table = np.arange(60, dtype=np.float32).reshape(3, 20)
    text = """g (float[3,20] x) => (float[3,20] y) {
        small = Neg(one)
        big = Mul(t, small)
        y = Add(x, big)
    }"""
    model = with_weights(text, {"t": table, "one": np.float32([1])})
    probe = Probe(model, {"x": (3, 20)})
    np.testing.assert_array_equal(probe.value("big"), -table)
    probe.forget_large()
    assert set(probe._values) == {"small"}
    np.testing.assert_array_equal(probe.value("big"), -table)


@pytest.mark.parametrize(("batch_dims", "indices"), [(0, [[[1, 2], [0, 0]]]), (1, [[2], [0]])])
def test_gathernd_gives_what_the_standard_says(batch_dims, indices):
    data = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    node = helper.make_node("GatherND", ["d", "i"], ["y"], batch_dims=batch_dims)
    index = np.array(indices, np.int64)
    text = "g (int64[2,3,4] d, int64[N,M,K] i) => (int64[A,B,C] y) { y = Identity(d) }"
    model = from_text(text)
    model.graph.node[0].CopyFrom(node)
    (wanted,) = ReferenceEvaluator(model).run(None, {"d": data, "i": index})
    np.testing.assert_array_equal(run_node(node, [data, index], 18)[0], wanted)


def test_a_graph_is_changed_only_where_it_may_be():
    model = windowed()
    before = model.SerializeToString(deterministic=True)
    apart = fuse_window_attention(model)
    assert model.SerializeToString(deterministic=True) == before
    in_place = fuse_window_attention(model, in_place=True)
    assert in_place.model is model
    assert sorted(t.name for t in model.graph.initializer) == sorted(
        t.name for t in apart.model.graph.initializer
    )
    assert list(model.graph.node) == list(apart.model.graph.node)
