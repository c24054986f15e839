"""Blocks: what lies between tensors that everything passes through."""

from __future__ import annotations

from edgeattn.graph.blocks import Block, blocks_of
from tests.graphs import from_text
from tests.quantization import block

LAYERS = {"q", "k", "v", "projected", "hidden", "out"}


def test_residual_paths_hold_a_block_together():
    assert blocks_of(block(), LAYERS) == [
        Block("q … projected", ("q", "k", "v", "projected")),
        Block("hidden … out", ("hidden", "out")),
    ]


def test_layers_one_after_the_other_are_blocks_of_their_own():
    model = from_text("g (float[N,3] x) => (float[N,3] z) { a = Relu(x) b = Relu(a) z = Relu(b) }")
    assert [found.nodes for found in blocks_of(model, {"a", "b", "z"})] == [("a",), ("b",), ("z",)]


def test_sizes_that_live_long_cut_no_block_apart():
    model = from_text(
        "g (float[N,3] x) => (float[N,3] z) "
        "{ size = Shape(x) a = Relu(x) b = Relu(a) z = Reshape(b, size) }"
    )
    assert [found.nodes for found in blocks_of(model, {"a", "b"})] == [("a",), ("b",)]


def test_a_block_is_named_after_the_path_its_layers_share():
    model = from_text(
        "g (float[N,3] x) => (float[N,3] z) { a = Relu(x) b = Relu(a) s = Add(x, b) "
        "c = Relu(s) d = Relu(c) z = Add(s, d) }"
    )
    names = ("net.0.fc1/Relu", "net.0.fc2/Relu", "add", "net.0.fc1b/Relu", "net.0.fc2b/Relu", "end")
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    found = blocks_of(model, set(names) - {"add", "end"})
    assert [(b.name, b.nodes) for b in found] == [
        ("net.0", ("net.0.fc1/Relu", "net.0.fc2/Relu")),
        ("net.0 (2)", ("net.0.fc1b/Relu", "net.0.fc2b/Relu")),
    ]


def test_without_layers_there_is_no_block():
    assert blocks_of(block(), ()) == []
