"""The forms of a graph: each that differs, once, and how to build it without trying others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn.calibration.collect import calibrate
from edgeattn.engine.build import build
from edgeattn.engine.variants import as_written, make_variants
from edgeattn.graph.files import load_graph
from edgeattn.graph.fuse import fuse
from edgeattn.graph.op import attention_nodes
from tests import foreign_attention
from tests.graphs import classifier, save


def saved(folder: Path, *, blocks: int = 3, last_is_global: bool = True) -> Path:
    graph = folder / "mixed.onnx"
    onnx.save(foreign_attention.windowed(blocks=blocks, last_is_global=last_is_global), graph)
    return graph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


def forms(graph: Path, folder: Path, **asked: object) -> dict[str, int]:
    """Names of the forms, with how many attention nodes each has."""
    made = make_variants(graph, folder, **asked)  # type: ignore[arg-type]
    return {variant.name: len(attention_nodes(variant.typed.model)) for variant in made}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"windows": 2, "everything": 3, "as written": 0}),
        ({"global_attention": True}, {"everything": 3, "as written": 0}),
        ({"global_attention": False}, {"windows": 2, "as written": 0}),
        ({"fuse": False}, {"as written": 0}),
        ({"precision": "fp16"}, {"windows": 2, "everything": 3, "as written": 0}),
    ],
    ids=str,
)
def test_each_form_is_made_once_the_preferred_first(tmp_path, folder, asked, expected):
    found = forms(saved(tmp_path), folder, **asked)
    assert found == expected
    assert list(found) == list(expected)


def test_forms_that_are_equal_are_one(tmp_path, folder):
    assert list(forms(saved(tmp_path, last_is_global=False), folder)) == ["windows", "as written"]
    assert forms(saved(tmp_path, blocks=1), folder) == {"windows": 0, "everything": 1}


def test_there_is_nothing_to_choose_where_nothing_may_be_fused(tmp_path, folder):
    plain = save(classifier(), tmp_path / "plain.onnx")
    assert forms(plain, folder) == {"windows": 0}
    graph = saved(tmp_path)
    fused = fuse(graph, tmp_path / "fused.onnx")
    assert forms(fused, folder) == {"windows": 2}
    shape = (8, foreign_attention.ROWS, foreign_attention.COLS, foreign_attention.CHANNELS)
    images = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    table = calibrate(graph, {"x": images}, tmp_path / "t.json", method="minmax")
    assert forms(graph, folder, table=table, precision="int8") == {"windows": 0}


def test_the_graph_as_it_was_given_is_known(tmp_path, folder):
    made = make_variants(saved(tmp_path), folder)
    assert as_written(made) is made[2].typed
    nothing_windowed = make_variants(saved(tmp_path, blocks=1), folder)
    assert as_written(nothing_windowed) is nothing_windowed[0].typed


def test_forms_in_half_precision_are_checked_against_their_own_typed_graph(tmp_path, folder):
    graph = saved(tmp_path)
    assert {variant.typed.file for variant in make_variants(graph, folder)} == {graph}
    for variant in make_variants(graph, folder, precision="fp16"):
        typed = load_graph(variant.typed.file)
        assert len(attention_nodes(typed)) == len(attention_nodes(variant.typed.model))


@pytest.mark.parametrize("number", range(3))
def test_the_options_of_a_form_build_it_without_the_others(tmp_path, folder, number):
    graph = saved(tmp_path)
    variant = make_variants(graph, folder)[number]
    manifest = build(graph, engine="cpu", dry_run=True, **variant.options)
    assert manifest.report["attention_nodes_lowered"] == len(attention_nodes(variant.typed.model))
    assert manifest.options.items() >= variant.options.items()
