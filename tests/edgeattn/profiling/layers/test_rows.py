"""Rows, their sums by module, and the formats that they are written in."""

from __future__ import annotations

import json

import pytest

from edgeattn.errors import ArtifactError
from edgeattn.profiling.layers.rows import (
    MODEL,
    OTHER,
    LayerProfile,
    LayerRow,
    module_tree,
    typical_runs,
)

ATTENTION = ("stages.2", "blocks.1", "attention")


def row(name: str, module: tuple[str, ...], ms: float) -> LayerRow:
    return LayerRow(name, "MatMul", module, ms, 2 * ms, 3 * ms, ms / 10, nodes=(name,))


ROWS = (
    row("a", ("stem",), 1.0),
    row("b", (*ATTENTION, "group 0"), 2.0),
    row("c", ATTENTION, 0.5),
    row("d", ("stages.2", "blocks.1", "mlp"), 3.0),
    row("e", OTHER, 0.25),
    row("f", MODEL, 0.125),
)
NOTES = {ATTENTION: "windows 4, 8", (*ATTENTION, "group 0"): "window 4"}


def profile() -> LayerProfile:
    return LayerProfile(ROWS, module_tree(ROWS, NOTES), 6.875, 7.0, 4, "by hand", "a board")


def test_a_module_sums_its_layers_and_those_of_its_children():
    stem, stage, other, model = profile().modules
    (block,) = stage.children
    attention, mlp = block.children
    (group,) = attention.children
    assert (stem.ms, stage.ms, block.ms, attention.ms) == (1.0, 5.5, 5.5, 2.5)
    assert (mlp.ms, group.ms, other.ms, model.ms) == (3.0, 2.0, 0.25, 0.125)
    assert (stage.layers, attention.layers) == (3, 2)
    assert stage.share == pytest.approx(0.55)


def test_labels_are_for_people():
    stem, stage, other, model = profile().modules
    (block,) = stage.children
    attention = block.children[0]
    assert [stem.label, stage.label, block.label] == ["stem", "stage 2", "stage 2 / block 1"]
    assert attention.label == "stage 2 / block 1 / attention (windows 4, 8)"
    assert attention.children[0].label == "stage 2 / block 1 / attention / group 0 (window 4)"
    assert (other.label, model.label) == ("other", "model")


def test_a_profile_survives_json():
    text = json.dumps(profile().to_dict(), allow_nan=False)
    assert LayerProfile.from_dict(json.loads(text)) == profile()


@pytest.mark.parametrize("values", [{}, [], {"rows": [{}], "modules": []}, {"rows": 3}])
def test_what_is_no_profile_is_refused(values):
    with pytest.raises(ArtifactError, match="malformed"):
        LayerProfile.from_dict(values)


def test_the_layers_are_exported_as_trtexec_does():
    count, *layers = profile().export_profile()
    assert count == {"count": 4}
    assert [set(layer) for layer in layers] == [
        {"name", "timeMs", "averageMs", "medianMs", "percentage"}
    ] * len(ROWS)
    first = layers[0]
    assert (first["name"], first["averageMs"], first["medianMs"]) == ("a", 3.0, 2.0)
    assert first["timeMs"] == 12.0
    assert sum(layer["percentage"] for layer in layers) == pytest.approx(100)


def test_layers_that_take_no_time_have_no_percentage():
    idle = LayerProfile((row("a", OTHER, 0.0),), (), 0.0, 1.0, 1, "")
    assert idle.export_profile()[1]["percentage"] == 0.0


def test_typical_runs_are_the_middle_fifth_by_their_sums():
    # Runs 2 and 5 are late as a whole, run 0 is lucky; each of the others is late in one layer.
    first = [0, 9, 50, 2, 1, 90, 1, 4, 3, 60]
    second = [0, 1, 50, 9, 9, 90, 9, 9, 9, 60]
    assert typical_runs([first, second]) == (3, 8)


def test_where_most_runs_are_late_those_near_a_usual_query_are_typical():
    late = [5, 50, 60, 70, 6, 80, 90, 95, 7, 99]
    assert typical_runs([late]) == (2, 3)
    assert typical_runs([late], near_ms=6.5) == (4, 8)
    assert typical_runs([late], near_ms=0) == (0, 4)
    assert typical_runs([late], near_ms=1000) == (7, 9)
    assert typical_runs([[3]], near_ms=1000) == (0,)
    assert typical_runs([], near_ms=1.0) == ()


@pytest.mark.parametrize(("runs", "kept"), [(0, 0), (1, 1), (2, 2), (3, 1), (4, 2), (5, 1)])
def test_any_number_of_runs_has_typical_ones(runs, kept):
    assert len(typical_runs([list(range(runs))])) == kept
    assert typical_runs([]) == ()
