"""Graphs that leave axes open: nothing is taken for known that no size at hand has told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from edgeattn.graph.fusion.agree import agree, settled
from edgeattn.graph.fusion.found import UnrecognisedError
from edgeattn.graph.fusion.match import Match
from edgeattn.graph.fusion.sizes import input_sizes, more_input_sizes
from edgeattn.graph.op import attention_nodes
from edgeattn.graph.passes import fuse_window_attention as fusing
from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention
from tests.edgeattn.graph.fusion.test_foreign_models import assert_same_outputs
from tests.foreign_graphs import export, images_of
from tests.foreign_models import SMALL_MODELS
from tests.graphs import from_text

PARTLY_TOLD = "no size that it was looked at tells what is added at all relative positions"


@pytest.fixture(scope="module")
def rectangles() -> onnx.ModelProto:
    """Windows of 4x3 tokens, of an exporter that wrote sizes down as they come in."""
    model = SMALL_MODELS["torchvision-swin-rectangle"]
    return export(model.build(model.even), images_of(model.even), "script", {0: "batch"})


def with_sizes(graph: onnx.ModelProto, sizes: Sequence[int | str]) -> onnx.ModelProto:
    """Say something else of the sizes of a graph's only input, as people do by hand."""
    told = onnx.ModelProto()
    told.CopyFrom(graph)
    for dim, size in zip(told.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
        dim.Clear()
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size
    del told.graph.value_info[:]
    for output in told.graph.output:
        output.type.tensor_type.ClearField("shape")
    return told


def test_a_graph_with_all_axes_open_is_fused_for_all_sizes(rectangles):
    graph = with_sizes(rectangles, ["batch", "channels", "height", "width"])
    fusion = fuse_window_attention(graph)
    assert [found.reason for found in fusion.attentions] == [""] * 4
    for batch, size in [(2, (36, 36)), (1, (34, 52)), (3, (32, 48)), (1, (33, 49))]:
        assert_same_outputs(graph, fusion, size, batch)


def test_positions_that_no_size_tells_are_not_made_up(rectangles):
    # One column of tokens, in windows of three: what a token adds to its left alone is seen.
    graph = with_sizes(rectangles, ["batch", 3, "height", 2])
    fusion = fuse_window_attention(graph)
    first, *_ = fusion.attentions
    assert (first.fused, first.reason) == (False, PARTLY_TOLD)
    assert fusion.fused == ()


@pytest.mark.parametrize("batch", ["batch", 2])
def test_positions_that_no_token_can_have_do_not_matter(rectangles, batch):
    graph = with_sizes(rectangles, [batch, 3, 36, 2])
    fusion = fuse_window_attention(graph)
    assert fusion.attentions[0].fused
    for node in attention_nodes(fusion.model):
        weights = {tensor.name: tensor for tensor in fusion.model.graph.initializer}
        table = onnx.numpy_helper.to_array(weights[node.input[1]])
        assert np.isfinite(table).all()
    assert_same_outputs(graph, fusion, (36, 2))


@pytest.fixture(scope="module")
def whole(rectangles) -> Match:
    """What one size tells of the first attention: all of its table."""
    model, found = with_sizes(rectangles, [2, 3, 32, 48]), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusing, "agree", lambda matches: found.append(matches[0]) or agree(matches))
        fuse_window_attention(model)
    assert np.isfinite(found[0].table).all()
    return found[0]


def settle(*matches: Match, has_open_sides: bool = True) -> Match:
    return settled(agree(matches), matches, has_open_sides=has_open_sides)


def test_sizes_tell_a_table_together(whole):
    low, high = whole.table.copy(), whole.table.copy()
    low[:, :20], high[:, 15:] = np.nan, np.nan
    parts = [dataclasses.replace(whole, table=table) for table in (low, high)]
    np.testing.assert_array_equal(settle(parts[0], whole).table, whole.table)
    with pytest.raises(UnrecognisedError, match=PARTLY_TOLD):
        settle(*parts)
    filled = settle(*parts, has_open_sides=False).table
    np.testing.assert_array_equal(filled, np.where(np.isnan(low) & np.isnan(high), 0, whole.table))
    other = dataclasses.replace(whole, table=np.where(np.isnan(low), np.nan, whole.table + 1))
    with pytest.raises(UnrecognisedError, match="depend on the size of the map"):
        agree([whole, other])


def test_a_shift_that_no_size_tells_is_not_made_up(whole):
    narrow, narrower = (
        dataclasses.replace(whole, size=(16, cols), shift_size=(2, None)) for cols in (3, 2)
    )
    with pytest.raises(UnrecognisedError, match="by how much its windows are shifted"):
        settle(narrow, narrower)
    assert settle(narrow, narrower, has_open_sides=False).shift_size == (2, None)
    assert settle(narrow, narrow).shift_size == (2, None)  # of three columns whatever the size
    assert settle(narrow, dataclasses.replace(whole, shift_size=(2, 1))).shift_size == (2, 1)
    whole_axis = (dataclasses.replace(each, window_size=(4, 0)) for each in (narrow, narrower))
    assert settle(*whole_axis).shift_size == (2, None)


def test_what_comes_first_is_not_made_up(whole):
    shifted = dataclasses.replace(whole, shift_size=(2, 1), pad_mode="mask", order=None)
    with pytest.raises(UnrecognisedError, match="whether it is padded or shifted first"):
        settle(shifted)
    assert settle(shifted, has_open_sides=False).order is None
    told = dataclasses.replace(shifted, order="roll_then_pad")
    assert settle(shifted, told).order == "roll_then_pad"
    assert settle(dataclasses.replace(shifted, shift_size=(0, 0))).order is None
    assert settle(dataclasses.replace(shifted, pad_mode=None)).order is None


def shapes_of(text: str, propose=input_sizes) -> list[tuple[int, ...]]:
    model = from_text(f"g ({text} x) => (float[N] y) {{ y = Identity(x) }}")
    return [shapes["x"] for shapes in propose(model)]


def test_open_channels_are_proposed_before_and_behind_the_sides():
    proposed = shapes_of("float[N,C,H,W]")
    assert proposed[0] == (2, 3, 256, 288)
    assert {(2, 1, 256, 288), (2, 256, 288, 3), (2, 256, 288, 1)} < set(proposed)
    assert all(shape[1] in (1, 3) or shape[3] in (1, 3) for shape in proposed)
    further = shapes_of("float[N,C,H,W]", more_input_sizes)
    assert (2, 3, 38, 47) in further
    assert len({*proposed, *further}) == len(proposed) + len(further)


@pytest.mark.parametrize("text", ["float[N,3,8,8]", "float[2,3,8,8]", "float[N]"])
def test_one_size_is_enough_where_no_side_is_open(text):
    assert len(shapes_of(text)) == 1
    assert shapes_of(text, more_input_sizes) == []


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("float[N,3,H,W]", (2, 3, 256, 288)),
        ("float[N,L,16]", (2, 256, 16)),
        ("float[N,16]", (2, 16)),
        ("float[1,3,8,8]", (1, 3, 8, 8)),
        ("float[N,T,C,H,W]", (2, 3, 256, 288, 1)),
    ],
)
def test_sizes_are_filled_in_by_their_order(text, first):
    assert shapes_of(text)[0] == first
