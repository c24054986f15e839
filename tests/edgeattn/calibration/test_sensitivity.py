"""Sensitivity: each layer and block alone, and spared, judged at the output."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest

from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.judge import OutputJudge
from edgeattn.calibration.sensitivity import sensitivity
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import ArtifactError, DataError, SpecError, TableError
from edgeattn.graph.passes.insert_qdq import insert_qdq
from tests.graphs import save
from tests.planted import CLASSES, LAYERS, planted, samples
from tests.quantization import block, floats


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sensitivity")
    graph = save(planted(), folder / "net.onnx")
    return graph, calibrate(graph, samples(40), method="minmax")


def test_the_planted_layer_is_the_most_sensitive(files):
    found = sensitivity(*files, samples(30, seed=1))
    assert found.layers[0].name == "planted"
    assert {effect.name for effect in found.layers} == set(LAYERS)
    assert found.layers[0].alone.sqnr_db < 15 < 25 < found.layers[1].alone.sqnr_db
    assert found.layers[0].without.sqnr_db > found.whole.sqnr_db + 15
    assert found.num_samples == 30


def test_each_figure_is_that_of_the_graph_with_these_layers_quantized(files):
    graph, table = files
    x = samples(9, seed=2)
    found = sensitivity(graph, table, x)
    judge = OutputJudge(planted(), {"x": x})
    scales = CalibTable.load(table).quant_scales
    for effect in found.layers:
        others = set(LAYERS) - {effect.name}
        alone, _ = insert_qdq(planted(), scales, keep_float=others)
        without, _ = insert_qdq(planted(), scales, keep_float=[effect.name])
        assert effect.alone.sqnr_db == pytest.approx(judge.sqnr_db(alone), abs=1e-6)
        assert effect.without.sqnr_db == pytest.approx(judge.sqnr_db(without), abs=1e-6)
    whole, _ = insert_qdq(planted(), scales)
    assert found.whole.sqnr_db == pytest.approx(judge.sqnr_db(whole), abs=1e-6)


def test_labels_add_accuracy(files):
    graph, table = files
    x = samples(25, seed=3)
    labels = OutputJudge(planted(), {"x": x}).reference["y"].argmax(axis=1)
    found = sensitivity(graph, table, {"x": x, "label": labels})
    assert found.float_top1 == 100
    assert found.whole.top1 < 100
    assert found.layers[0].without.top1 > found.layers[0].alone.top1
    assert sensitivity(graph, table, x, labels).layers == found.layers
    with pytest.raises(DataError, match="labels run from"):
        sensitivity(graph, table, x, labels + CLASSES)


def test_samples_are_as_many_as_asked_for_or_as_the_judgement_needs(files):
    x, labels = samples(300), np.zeros(300, int)
    assert sensitivity(*files, x).num_samples == 64
    assert sensitivity(*files, x, labels).num_samples == 256
    assert sensitivity(*files, x, labels, samples=9).num_samples == 9


def test_blocks_are_judged_as_one(tmp_path):
    graph = save(block(), tmp_path / "net.onnx")
    table = calibrate(graph, floats(40, 4, 8), method="minmax")
    found = sensitivity(graph, table, floats(7, 4, 8))
    assert {effect.nodes for effect in found.blocks} == {
        ("q", "k", "v", "projected"),
        ("hidden", "out"),
    }
    layers = {effect.name: effect for effect in found.layers}
    for effect in found.blocks:
        assert effect.alone.sqnr_db < min(layers[node].alone.sqnr_db for node in effect.nodes) + 1


@pytest.mark.parametrize("recipe", ["attention", "full"])
def test_each_recipe_has_its_own_nodes(recipe, tmp_path):
    graph = save(block(), tmp_path / "net.onnx")
    table = calibrate(graph, floats(40, 4, 8), method="minmax")
    names = {e.name for e in sensitivity(graph, table, floats(5, 4, 8), recipe=recipe).layers}
    assert {"logits", "mixed"} <= names
    assert ("y" in names) == (recipe == "full")


def test_a_lone_layer_can_be_spared(tmp_path):
    from tests.graphs import classifier

    graph = save(classifier(), tmp_path / "net.onnx")
    table = calibrate(graph, floats(20, 5), method="minmax")
    (effect,) = sensitivity(graph, table, floats(6, 5)).layers
    assert effect.without.sqnr_db == math.inf
    assert effect.to_dict()["without_db"] is None


class Page(HTMLParser):
    """What a page shows, and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.fetched, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_files_hold_what_was_found(files, tmp_path):
    graph, table = files
    report, page = tmp_path / "r.json", tmp_path / "r.html"
    found = sensitivity(graph, table, samples(9), output=report, html=page)
    values = json.loads(report.read_text())
    assert values == found.to_dict()
    assert values["manifest"]["parents"].keys() == {"graph", "table", "data"}
    assert values["figures"]["int8_db"] == found.whole.sqnr_db
    text = page.read_text(encoding="utf-8")
    assert not [c for c in text if not (c.isprintable() or c == "\n")]  # a mangled escape
    shown = Page(text)
    assert not shown.fetched
    assert "script" not in shown.tags
    assert shown.tags.count("rect") == 2 * len(LAYERS)
    for effect in found.layers:
        assert effect.name in shown.texts
        assert f"{effect.alone.sqnr_db:.1f}" in shown.texts


def test_names_are_text_on_the_page(tmp_path):
    model = planted()
    model.graph.node[0].name = "<script>alert(1)</script>"
    graph = save(model, tmp_path / "net.onnx")
    page = tmp_path / "r.html"
    sensitivity(graph, calibrate(graph, samples(9), method="minmax"), samples(4), html=page)
    shown = Page(page.read_text(encoding="utf-8"))
    assert "script" not in shown.tags
    assert "<script>alert(1)</script>" in shown.texts


def test_what_does_not_fit_is_refused(files, tmp_path):
    graph, table = files
    other = save(block(), tmp_path / "other.onnx")
    with pytest.raises(TableError, match="belongs to another graph"):
        sensitivity(other, table, samples(4))
    with pytest.raises(SpecError, match="the recipe is 'some'"):
        sensitivity(graph, table, samples(4), recipe="some")
    with pytest.raises(DataError):
        sensitivity(graph, table, np.zeros((4, 7), np.float32))
    with pytest.raises(ArtifactError, match="there is no folder"):
        sensitivity(graph, table, samples(4), html=tmp_path / "none" / "r.html")
