"""The graphs of cases: shared by those that want the same, and never those of other data."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn.artifacts import manifest_path
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import ArtifactError
from edgeattn.sweep.cases import expand
from edgeattn.sweep.prepare import prepare
from edgeattn.sweep.spec import read_spec
from tests.edgeattn.sweep.sweeps import PRODUCT, write_sweep

INT8 = PRODUCT.replace('["fp32", "int8"]', '["int8"]').replace("[1, 3]", "[1]")


@pytest.fixture
def prepared(tmp_path):
    """Prepares the cases of a sweep; gives their files, and the steps that this took."""

    def run(spec):
        steps = []
        return [prepare(case, tmp_path / "graphs", steps.append) for case in expand(spec)], steps

    return run


def test_graphs_that_are_there_are_not_made_again(tmp_path, prepared):
    spec = read_spec(write_sweep(tmp_path, INT8))
    first, steps = prepared(spec)
    assert steps == ["calibrate", "quantize"]
    assert prepared(spec) == (first, [])


def test_other_samples_under_the_same_name_make_another_table_and_graph(tmp_path, prepared):
    spec = read_spec(write_sweep(tmp_path, INT8))
    (before,), _ = prepared(spec)
    np.savez(tmp_path / "samples.npz", x=np.full((2, 8), 9, np.float32))
    (after,), steps = prepared(spec)
    assert steps == ["calibrate", "quantize"]
    assert before["reference"] == after["reference"]
    assert before["graph"] != after["graph"]
    tables = [CalibTable.load(found["table"]) for found in (before, after)]
    assert tables[0].tensors["x"] != tables[1].tensors["x"]


def test_recipes_share_a_table_and_no_graph(tmp_path, prepared):
    options = 'options = ["a", "b"]\n[options.a]\nrecipe = "linear"\n[options.b]\nrecipe = "full"\n'
    spec = read_spec(write_sweep(tmp_path, INT8.replace("[models", f"{options}[models", 1)))
    (one, other), steps = prepared(spec)
    assert steps == ["calibrate", "quantize", "quantize"]
    assert one["table"] == other["table"]
    assert one["graph"] != other["graph"]


def test_a_graph_that_a_kill_left_half_written_is_made_again_and_another_one_refused(
    tmp_path, prepared
):
    spec = read_spec(write_sweep(tmp_path, INT8))
    (found,), _ = prepared(spec)
    graph = tmp_path / "graphs" / found["graph"]
    whole = graph.read_bytes()
    manifest = manifest_path(graph)
    kept = manifest.read_bytes()
    manifest.unlink()
    graph.write_bytes(whole[:100])
    assert prepared(spec)[1] == ["quantize"]
    assert graph.read_bytes() == whole
    assert manifest.read_bytes() == kept
    graph.write_bytes(whole[:100])
    with pytest.raises(ArtifactError):
        prepared(spec)
