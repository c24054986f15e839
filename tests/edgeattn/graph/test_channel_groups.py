"""Which channels can be scaled: who writes them, where they go, and what cannot be known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeattn.graph.channel_groups import ChannelGroup, balanceable_channels, find_channel_groups
from edgeattn.graph.nodes import node_label
from tests.quantization import block, floats, with_weights

WEIGHTS = {
    "g": floats(12),
    "g1": floats(1),
    "g16": floats(12).astype(np.float16),
    "w": floats(12, 5),
    "w16": floats(12, 5).astype(np.float16),
    "k": floats(12, 3, 3, 3),
    "k1": floats(4, 12, 1, 1),
    "row": floats(12),
    "two": np.array([2]),
    "zeros": np.array([0, 0, 0]),
    "zero": np.array([0, 0]),
    "last": np.array([12]),
    "halves": np.array([2, 2]),
}


def model_of(body: str, head: str = "float[N,4,12] x", outputs: str = "") -> onnx.ModelProto:
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    used = {name: array for name, array in WEIGHTS.items() if name in words}
    return with_weights(f"g ({head}) => ({outputs or 'float[a,b,c] y'}) {{ {body} }}", used)


def group_of(model: onnx.ModelProto, source: str) -> ChannelGroup:
    nodes = model.graph.node
    (group,) = (g for g in find_channel_groups(model) if node_label(nodes[g.source]) == source)
    return group


def readers_of(model: onnx.ModelProto, source: str) -> list[str]:
    group = group_of(model, source)
    assert not group.obstacle
    return [node_label(model.graph.node[index]) for index in group.readers]


def test_a_block_has_two_groups_and_their_tensors_are_observed():
    model = block()
    assert balanceable_channels(model) == {"norm": -1, "active": -1}
    assert readers_of(model, "norm") == ["q", "k", "v"]
    hidden = group_of(model, "hidden")
    assert (hidden.size, hidden.tensors) == (16, {"hidden": -1, "active": -1})
    assert group_of(model, "projected").obstacle == "Add sum reads it, a sum of activations"


def test_channels_of_a_map_stand_before_its_places():
    model = model_of(
        "c = Conv<pads = [1, 1, 1, 1]>(x, k)\nr = Relu(c)\ny = Conv(r, k1)",
        "float[N,3,h,v] x",
        "float[a,b,c,d] y",
    )
    assert balanceable_channels(model) == {"r": -3}


PASSED = {
    "split": "a, b = Split<axis = 1, num_outputs = 2>(n)\np = MatMul(a, w)\nq = MatMul(b, w)\n"
    "y = Add(p, q)",
    "concat_by_a_negative_axis": "c = Concat<axis = -2>(n, n)\ny = MatMul(c, w)",
    "slice_of_the_first_axes": "s = Slice(n, zero, halves)\ny = MatMul(s, w)",
    "a_shape_that_the_graph_computes": "f = Shape<start = 0, end = 2>(n)\n"
    "s = Concat<axis = 0>(f, last)\nr = Reshape(n, s)\ny = MatMul(r, w)",
}


@pytest.mark.parametrize("body", PASSED.values(), ids=PASSED)
def test_what_moves_channels_as_wholes_is_followed(body):
    assert readers_of(model_of(f"n = LayerNormalization(x, g)\n{body}"), "n")


def test_padding_is_followed_where_the_channels_own_is_known_to_be_zero():
    """Widths are (batch, places, channels) before, then after; the graph computes one of them."""
    norm = "n = LayerNormalization(x, g)\nf = Shape<start = 1, end = 2>(n)\n"
    places = "p = Concat<axis = 0>(zeros, z, f, z)\nt = Pad(n, p)\ny = MatMul(t, w)"
    channels = "p = Concat<axis = 0>(zeros, zero, f)\nt = Pad(n, p)\ny = MatMul(t, w)"
    zero = {"z": np.array([0])}

    def padded(body: str) -> onnx.ModelProto:
        known = {name: WEIGHTS[name] for name in ("g", "w", "zeros", "zero")} | zero
        known = {name: a for name, a in known.items() if f"{name}," in body or f"{name})" in body}
        text = f"g (float[N,4,12] x) => (float[a,b,c] y) {{ {body} }}"
        return with_weights(text, known)

    assert readers_of(padded(norm + places), "n") == ["y"]
    assert "Pad t reads it" in group_of(padded(norm + channels), "n").obstacle


OBSTACLES = {
    "computed_factors": ("h = Abs(row)\ng2 = Add(h, s)\nn = LayerNormalization(x, g2)\n"
        "y = MatMul(n, w)", "its factors are not constant"),
    "half_factors": ("n = LayerNormalization(x, g16)\ny = MatMul(n, w16)",
        "its factors are float16, not float32"),
    "one_factor_for_all": ("n = LayerNormalization(x, g1)\ny = MatMul(n, w)",
        "it does not have one factor for each channel of the last axis"),
    "an_unknown_shape": ("n = LayerNormalization(x, g)\nr = Reshape(n, s)\ny = MatMul(r, w)",
        "Reshape r reads it"),
    "a_slice_of_unknown_axes": ("n = LayerNormalization(x, g)\nr = Slice(n, zero, halves, s)\n"
        "y = MatMul(r, w)", "Slice r reads it"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "reason"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_is_not_known_before_the_graph_runs_is_an_obstacle(body, reason):
    kind = "float16[N,4,12] x" if "16" in body else "float[N,4,12] x"
    given = "int64[r] s" if "Reshape" in body or "Slice" in body else "float[12] s"
    model = model_of(body, f"{kind}, {given}")
    assert reason in group_of(model, "n").obstacle


def test_a_layer_with_a_computed_bias_writes_no_scalable_channels():
    model = model_of(
        "b = Neg(s)\nc = Conv(x, k, b)\nr = Relu(c)\ny = Conv(r, k1)",
        "float[N,3,h,v] x, float[12] s",
        "float[a,b,c,d] y",
    )
    assert group_of(model, "c").obstacle == "its bias is not constant"


def test_a_constant_that_spreads_one_channel_over_many_is_an_obstacle():
    model = model_of(
        "n = LayerNormalization(x, g1)\np = Add(n, row)\ny = MatMul(p, w)", "float[N,4,1] x"
    )
    assert group_of(model, "n").obstacle == "Add p makes more channels of it"


def test_a_normalization_that_is_never_computed_from_inputs_has_no_group():
    model = model_of("n = LayerNormalization(k1, row)\ny = MatMul(x, w)")
    assert [node_label(model.graph.node[g.source]) for g in find_channel_groups(model)] == ["y"]
