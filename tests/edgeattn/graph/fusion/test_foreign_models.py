"""Every attention of other libraries' models is found, is what their configuration says, and the
graph with our nodes gives the numbers of the graph without."""

import dataclasses

import numpy as np
import onnx
import pytest

from edgeattn.graph.fusion.found import Fusion
from edgeattn.graph.op import OP_TYPE, make_attention_node, spec_of_node
from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention
from edgeattn.graph.verify import relative_error, run_graph
from tests.foreign_graphs import (
    DYNAMIC,
    EXPORTERS,
    ForeignModel,
    Size,
    contradictions,
    export,
    feed,
    images_of,
)
from tests.foreign_models import REAL_MODELS, SMALL_MODELS, timm_swin_of_any_size

RELATIVE_TOLERANCE = 1e-4

BATCH = {0: "batch"}
# Of the normal run: one of each family of code, some of the exporter that takes seconds.
TRACED_EXAMPLES = (
    "hf-swin",
    "hf-swinv2",
    "hf-maskformer",
    "hf-swin2sr",
    "swinir-style",
    "torchvision-swin-rectangle",
    "torchvision-swinv2",
    "timm-swin-s3",
    "timm-swinv2",
    "timm-maxvit",
    "timm-maxvit-3hd",
    "timm-tiny-vit",
)
DYNAMO_EXAMPLES = ("hf-swin-sdpa", "timm-maxvit", "torchvision-maxvit", "swinir-style")


def assert_fused_as_configured(
    graph: onnx.ModelProto, model: ForeignModel, size: Size, batch: int = 2
) -> Fusion:
    fusion = fuse_window_attention(graph)
    expected = model.attentions(size)
    assert [found.reason for found in fusion.attentions] == [""] * len(expected)
    assert len(fusion.fused) == len(expected)
    found_and_expected = list(zip(fusion.fused, expected, strict=True))
    if not graph.graph.input[0].type.tensor_type.shape.dim[2].dim_param:
        assert [found.map_size for found in fusion.fused] == [each.map_size for each in expected]
    wrong = [contradictions(found.spec, each.map_size, each) for found, each in found_and_expected]
    assert not any(wrong), wrong
    op_types = [node.op_type for node in fusion.model.graph.node]
    assert op_types.count(OP_TYPE) == len(expected)
    assert "Softmax" not in op_types
    assert fusion.nodes_after == len(op_types) < len(graph.graph.node) == fusion.nodes_before
    onnx.checker.check_model(fusion.model)
    assert_same_outputs(graph, fusion, size, batch)
    return fusion


def assert_same_outputs(graph: onnx.ModelProto, fusion: Fusion, size: Size, batch: int = 2) -> None:
    inputs = feed(graph, images_of(size, batch, seed=1))
    original = run_graph(graph, inputs)
    assert np.std(original[0]) > 1e-3  # a constant would be equal too
    assert relative_error(original, run_graph(fusion.model, inputs)) < RELATIVE_TOLERANCE


@pytest.mark.parametrize("name", TRACED_EXAMPLES)
def test_all_attentions_of_a_traced_model_are_fused(name):
    model = SMALL_MODELS[name]
    size = model.odd or model.even
    graph = export(model.build(size), images_of(size), "script")
    assert_fused_as_configured(graph, model, size)


@pytest.mark.parametrize("name", DYNAMO_EXAMPLES)
def test_all_attentions_of_a_model_through_torch_export_are_fused(name):
    model = SMALL_MODELS[name]
    size = model.odd or model.even
    graph = export(model.build(size), images_of(size), "dynamo")
    assert_fused_as_configured(graph, model, size)


@pytest.mark.slow
def test_a_graph_of_any_size_is_right_at_sizes_that_it_was_not_made_at():
    # Windows of 4x3 tokens: whether a map is padded differs from stage to stage and size to size.
    model = SMALL_MODELS["torchvision-swin-rectangle"]
    graph = export(model.build(model.odd), images_of(model.odd), "script", DYNAMIC)
    fusion = assert_fused_as_configured(graph, model, model.odd)
    for batch, size in [(1, model.even), (3, (48, 32)), (1, (34, 52)), (1, (33, 49))]:
        assert_same_outputs(graph, fusion, size, batch)


def test_the_comparison_sees_a_window_that_is_shifted_otherwise():
    model = SMALL_MODELS["hf-swin"]
    graph = export(model.build(model.even), images_of(model.even), "script")
    fusion = fuse_window_attention(graph)
    node = [node for node in fusion.model.graph.node if node.op_type == OP_TYPE][1]
    spec = spec_of_node(node)
    group = dataclasses.replace(spec.head_groups[0], shift_size=(2, 1))
    other = dataclasses.replace(spec, head_groups=(group,))
    node.CopyFrom(make_attention_node(other, node.input, node.output[0], node.name))
    inputs = feed(graph, images_of(model.even))
    error = relative_error(run_graph(graph, inputs), run_graph(fusion.model, inputs))
    assert error > 10 * RELATIVE_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("axes", [None, BATCH], ids=["static", "batch"])
@pytest.mark.parametrize("sides", ["even", "odd"])
@pytest.mark.parametrize("name", SMALL_MODELS)
def test_all_attentions_of_every_small_model_are_fused(name, sides, axes, exporter):
    model = SMALL_MODELS[name]
    size = getattr(model, sides)
    if size is None:
        pytest.skip("the library refuses sizes that its windows do not divide")
    graph = export(model.build(size), images_of(size), exporter, axes)
    fusion = assert_fused_as_configured(graph, model, size)
    for batch in (1, 5) if axes else ():
        assert_same_outputs(graph, fusion, size, batch)


# Other libraries' masks or windows hold for the size that the model was made for.
ANY_SIZE = {
    **{
        name: model
        for name, model in SMALL_MODELS.items()
        if not name.startswith("timm-") and model.odd is not None
    },
    "timm-swin-any-size": timm_swin_of_any_size(1),
    "timm-swinv2-any-size": timm_swin_of_any_size(2),
}


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ANY_SIZE)
def test_small_models_that_take_any_size_still_do_after_fusion(name, exporter):
    model = ANY_SIZE[name]
    # Made at an odd size, where padding and cropping are part of the trace.
    graph = export(model.build(model.odd), images_of(model.odd), exporter, DYNAMIC)
    fusion = assert_fused_as_configured(graph, model, model.odd)
    rows, cols = model.even
    for batch, size in [(1, (rows, cols)), (3, (cols, rows)), (1, (rows + 2, cols + 4))]:
        assert_same_outputs(graph, fusion, size, batch)


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("sides", ["even", "odd"])
@pytest.mark.parametrize("name", REAL_MODELS)
def test_all_attentions_of_models_of_published_size_are_fused(name, sides, exporter):
    model = REAL_MODELS[name]
    size = getattr(model, sides)
    if size is None:
        pytest.skip("the library refuses sizes that its windows do not divide")
    graph = export(model.build(size), images_of(size, batch=1), exporter)
    assert_fused_as_configured(graph, model, size, batch=1)
