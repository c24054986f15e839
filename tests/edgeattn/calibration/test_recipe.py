"""Recipes: those that ship are sound, and a wrong one is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeattn.artifacts import data_folder
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.data import open_batches
from edgeattn.calibration.quantize import quantize
from edgeattn.calibration.recipe import CalibrationOptions, load_recipe, recipe_names
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import ArtifactError, SpecError
from edgeattn.graph.files import embedded_manifest, load_graph
from edgeattn.models.registry import get_entry
from tests.graphs import save
from tests.quantization import block, floats


def write(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text)
    return path


def test_a_recipe_ships_for_each_shipped_model():
    assert recipe_names() == ["msseq_nano", "mswin_nano", "pmsa_nano"]


@pytest.mark.parametrize("name", ["msseq_nano", "mswin_nano", "pmsa_nano"])
def test_a_shipped_recipe_feeds_its_model(name):
    options = load_recipe(name)
    spec = get_entry(name).input
    batches = open_batches(options.data, [spec], samples=options.samples)
    count = 0
    for batch in batches:
        assert batch[spec.name].shape == spec.shape
        assert batch[spec.name].dtype == np.float32
        count += 1
    assert count == batches.samples == options.samples
    assert batches.skipped == []


def test_a_recipe_of_ones_own_names_data_beside_it(tmp_path):
    np.save(tmp_path / "data.npy", floats(9, 4, 8))
    recipe = write(tmp_path, 'data = "data.npy"\nmethod = "percentile"\npercentile = 99\nseed = 3')
    graph = save(block(), tmp_path / "net.onnx")
    table = CalibTable.load(calibrate(graph, recipe=recipe))
    assert table.method == "percentile"
    assert table.manifest.options["percentile"] == 99
    assert table.manifest.options["seed"] == 3
    assert table.manifest.parents["data"].file == "data.npy"


def test_what_is_given_goes_before_the_recipe(tmp_path):
    recipe = write(tmp_path, 'data = "absent.npy"\nmethod = "percentile"\nsamples = 5\nseed = 3')
    graph = save(block(), tmp_path / "net.onnx")
    path = calibrate(graph, floats(9, 4, 8), recipe=str(recipe), method="minmax", samples=7, seed=0)
    table = CalibTable.load(path)
    assert table.method == "minmax"
    assert table.manifest.report["samples"] == 7
    assert table.manifest.options["seed"] == 0


def test_data_is_looked_for_beside_the_recipe_then_among_the_samples(tmp_path):
    (tmp_path / "mine").mkdir()
    assert load_recipe(write(tmp_path, 'data = "mine"')).data == str(tmp_path / "mine")
    shipped = data_folder("calib") / "samples"
    assert load_recipe(write(tmp_path, 'data = "mnist"')).data == str(shipped / "mnist")
    assert load_recipe(write(tmp_path, 'data = "pkg.mod:make"')).data == "pkg.mod:make"
    assert load_recipe(write(tmp_path, "")) == CalibrationOptions()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("metod = 'minmax'", "has the unknown key metod"),
        ("method = 'guess'", "the method is 'guess'"),
        ("keep_float = 'head'", "keep_float is 'head'"),
        ("keep_float = [3]", r"keep_float is \[3\]"),
        ("method = 3", "method is 3, a int"),
        ("samples = 'all'", "samples is 'all', a str"),
        ("samples = true", "samples is True, a bool"),
        ("method = 'percentile'\npercentile = 0", "the percentile is 0"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path, text, reason):
    with pytest.raises(SpecError, match=reason) as error:
        load_recipe(write(tmp_path, text))
    assert "own.toml" in error.value.message
    assert error.value.hint


def test_what_is_no_recipe_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="there is no recipe mswin; those that come"):
        load_recipe("mswin")
    with pytest.raises(ArtifactError, match="there is no file"):
        load_recipe(tmp_path / "absent.toml")
    with pytest.raises(ArtifactError, match="is not TOML"):
        load_recipe(write(tmp_path, "method = "))
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match="is not TOML"):
        load_recipe(path)


def test_nodes_that_a_recipe_keeps_in_float_stay_so_with_its_table(tmp_path):
    np.save(tmp_path / "data.npy", floats(9, 4, 8))
    recipe = write(tmp_path, 'data = "data.npy"\nmethod = "mse"\nkeep_float = ["v", "q"]')
    graph = save(block(), tmp_path / "net.onnx")
    table = calibrate(graph, recipe=recipe)
    assert CalibTable.load(table).manifest.options["keep_float"] == ["q", "v"]
    manifest = embedded_manifest(load_graph(quantize(graph, table=table, keep_float=["k"])), "")
    assert manifest.options["keep_float"] == ["k", "q", "v"]
    floating = {d["node"] for d in manifest.report["decisions"] if not d["quantized"]}
    assert {"k", "q", "v"} <= floating


def test_a_recipe_that_keeps_a_node_that_is_not_there_is_refused(tmp_path):
    recipe = write(tmp_path, 'keep_float = ["nowhere"]')
    graph = save(block(), tmp_path / "net.onnx")
    with pytest.raises(SpecError, match="nowhere"):
        calibrate(graph, floats(2, 4, 8), recipe=recipe)
