"""Models without windows, and with windows of other kinds, keep every node that they have."""

import pytest

from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention
from edgeattn.graph.verify import relative_error, run_graph
from tests.foreign_graphs import EXPORTERS, Exporter, export, feed
from tests.other_models import OTHER_WINDOWS, WITHOUT_WINDOWS, made

ATTENTIONS = {
    "vit": 2,
    "bert": 2,
    "causal": 1,
    "beit": 2,
    "segformer": 2,
    "yolo-like": 1,
    "cross attention": 1,
    "sam": 2,
    "class tokens": 1,
    "pooled queries": 1,
    "shared window": 1,
}


def assert_left_alone(name: str, exporter: Exporter) -> None:
    model, example = made((WITHOUT_WINDOWS | OTHER_WINDOWS)[name])
    graph = export(model, example, exporter)
    fusion = fuse_window_attention(graph)
    assert fusion.fused == ()
    assert fusion.model is graph
    assert fusion.nodes_before == fusion.nodes_after == len(graph.graph.node)
    assert len(fusion.attentions) == ATTENTIONS.get(name, 0)
    assert all(found.reason for found in fusion.attentions)


@pytest.mark.parametrize("name", WITHOUT_WINDOWS)
def test_models_without_windows_keep_every_node(name):
    assert_left_alone(name, "script")


@pytest.mark.parametrize("name", OTHER_WINDOWS)
def test_windows_that_no_node_stands_for_are_left_with_a_reason(name):
    assert_left_alone(name, "script")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WITHOUT_WINDOWS, *OTHER_WINDOWS])
def test_nothing_is_fused_in_graphs_of_torch_export_either(name):
    assert_left_alone(name, "dynamo")


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", [*WITHOUT_WINDOWS, *OTHER_WINDOWS])
def test_full_attention_where_it_is_asked_for_changes_no_output(name, exporter):
    model, example = made((WITHOUT_WINDOWS | OTHER_WINDOWS)[name])
    graph = export(model, example, exporter)
    fusion = fuse_window_attention(graph, global_attention=True)
    inputs = feed(graph, example)
    assert relative_error(run_graph(graph, inputs), run_graph(fusion.model, inputs)) < 1e-4
