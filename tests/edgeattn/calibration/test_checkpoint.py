"""States of calibrations: going on after a kill, shards and their merge, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeattn
from edgeattn.artifacts import Manifest
from edgeattn.calibration.checkpoint import CalibrationState, Shard
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.observers import METHODS
from edgeattn.calibration.shards import merge_calibrations
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import ArtifactError, DataError, SpecError
from edgeattn.graph.files import save_graph
from tests.graphs import save
from tests.quantization import block, floats, with_weights

X = floats(21, 4, 8)
EACH_METHOD = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(block(), tmp_path / "net.onnx")


@pytest.fixture
def state(graph: Path) -> Path:
    """A finished state of the whole data."""
    path = graph.parent / "whole.calib.state"
    calibrate(graph, X, method="entropy", state=path)
    return path


def shards_of(graph: Path, count: int, data=X, **options) -> list[Path]:
    paths = [graph.parent / f"{number}.calib.state" for number in range(1, count + 1)]
    for number, path in enumerate(paths, start=1):
        path.unlink(missing_ok=True)
        written = calibrate(graph, data, shard=f"{number}/{count}", state=path, **options)
        assert written == path
    return paths


@EACH_METHOD
@pytest.mark.parametrize("count", [1, 2, 5])
def test_merged_shards_are_the_unsharded_table_bit_for_bit(graph, method, count):
    options = {"method": method, "samples": 17, "seed": 3, "batch_size": 4}
    expected = calibrate(graph, X, **options).read_bytes()
    paths = shards_of(graph, count, **options)
    merged = merge_calibrations(graph, paths[::-1], graph.parent / "merged.calib.json")
    assert merged.read_bytes() == expected


def test_a_shard_without_a_sample_of_its_own_adds_nothing(graph):
    expected = calibrate(graph, X[:2], method="mse").read_bytes()
    paths = shards_of(graph, 3, X[:2], method="mse")
    assert merge_calibrations(graph, paths).read_bytes() == expected


def test_shards_of_a_graph_of_fixed_batch_size_own_whole_batches(tmp_path):
    model = block()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    graph = save(model, tmp_path / "net.onnx")
    for method in ("average", "entropy"):
        expected = calibrate(graph, X, method=method)
        report = CalibTable.load(expected).manifest.report
        assert (report["samples"], report["left_out"]) == (20, 1)
        content = expected.read_bytes()
        assert merge_calibrations(graph, shards_of(graph, 3, method=method)).read_bytes() == content


def test_shards_of_a_folder_count_its_bad_images_once(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for value in range(10):
        Image.fromarray(np.full((6, 6), 20 * value, np.uint8)).save(folder / f"{value}.png")
    for name in ("a.png", "b.jpg"):
        (folder / name).write_text("a text file")
    model = with_weights(
        "g (float[batch,1,6,6] x) => (float[A,B,C,D] y) { z = Relu(x) y = Conv(z, w) }",
        {"w": floats(2, 1, 3, 3)},
    )
    inputs = [{"name": "x", "shape": ["batch", 1, 6, 6], "preprocess": {"mean": [0.5], "std": [1]}}]
    graph = save_graph(model, tmp_path / "net.onnx", Manifest("graph", options={"inputs": inputs}))
    options = {"method": "percentile", "max_bad": 2, "samples": 8, "seed": 1}
    expected = calibrate(graph, folder, **options).read_bytes()
    assert (
        merge_calibrations(graph, shards_of(graph, 3, folder, **options)).read_bytes() == expected
    )
    with pytest.raises(DataError, match="is not a readable image"):
        calibrate(graph, folder, state=tmp_path / "s", **options | {"max_bad": 0, "samples": 10})


KILLED = """
import os, signal, sys
import numpy as np
from edgeattn.calibration import collect

collect.INTERVAL_S = 0

def progress(done, total, what):
    if what == "calibrating" and done >= 8:
        os.kill(os.getpid(), signal.SIGKILL)

graph, data, method, state = sys.argv[1:]
collect.calibrate(graph, data, method=method, state=state, batch_size=4, progress=progress)
"""


@pytest.mark.parametrize("method", ["minmax", "average", "entropy", "auto"])
def test_a_killed_calibration_goes_on_to_the_identical_table(graph, monkeypatch, method):
    data, state = graph.parent / "data.npy", graph.parent / "net.calib.state"
    np.save(data, X)
    expected = calibrate(graph, str(data), method=method, batch_size=4).read_bytes()
    table = graph.parent / "net.calib.json"
    table.unlink()
    command = [sys.executable, "-c", KILLED, str(graph), str(data), method, str(state)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not table.exists()
    assert not CalibrationState.load(state).manifest.report["finished"]
    assert len(CalibrationState.load(state).digests) == 8

    runs = []
    observe = edgeattn.calibration.collector.Collector.observe
    monkeypatch.setattr(
        "edgeattn.calibration.collector.Collector.observe",
        lambda self, batch, names: runs.append(len(batch["x"])) or observe(self, batch, names),
    )
    calibrate(graph, str(data), method=method, batch_size=4, state=state)
    assert table.read_bytes() == expected
    assert runs == [4, 4, 4, 1]  # of 21 samples 8 were done
    calibrate(graph, str(data), method=method, batch_size=4, state=state)
    assert table.read_bytes() == expected
    assert len(runs) == 4  # a finished state runs nothing again


def test_a_stream_goes_on_too(graph, monkeypatch):
    state = graph.parent / "net.calib.state"

    def stream(count):
        yield from X[:count]
        if count < len(X):
            raise KeyboardInterrupt

    expected = calibrate(graph, stream(21), method="mse").read_bytes()
    monkeypatch.setattr("edgeattn.calibration.collect.INTERVAL_S", 0)
    with pytest.raises(KeyboardInterrupt):
        calibrate(graph, stream(19), method="mse", state=state)
    assert len(CalibrationState.load(state).digests) == 16
    assert calibrate(graph, stream(21), method="mse", state=state).read_bytes() == expected


def test_a_state_is_written_now_and_then_only(graph, monkeypatch):
    saved = []
    monkeypatch.setattr(CalibrationState, "save", lambda self, path: saved.append(path))
    calibrate(graph, X, method="minmax", batch_size=1, state=graph.parent / "s")
    assert len(saved) == 1  # at the end: 30 s have not passed


@pytest.mark.parametrize("length", [0, 10, 1000, -1])
def test_a_truncated_state_is_refused_and_left_alone(graph, state, length):
    content = state.read_bytes()[:length]
    state.write_bytes(content)
    with pytest.raises(ArtifactError, match="is not a whole state of a calibration"):
        calibrate(graph, X, method="entropy", state=state)
    with pytest.raises(ArtifactError, match="is not a whole state of a calibration"):
        merge_calibrations(graph, [state])
    assert state.read_bytes() == content


def test_a_state_with_a_flipped_bit_is_refused(graph, state):
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="is not a whole state"):
        calibrate(graph, X, method="entropy", state=state)


def test_a_state_that_lacks_a_tensor_is_refused(graph, state):
    loaded = CalibrationState.load(state)
    fewer = {k: v for k, v in loaded.arrays.items() if not k.startswith("tensor/3/")}
    CalibrationState(loaded.manifest, loaded.digests, fewer).save(state)
    with pytest.raises(ArtifactError, match="is not a whole state"):
        merge_calibrations(graph, [state])


def test_other_archives_are_refused(graph, tmp_path):
    other = tmp_path / "other.npz"
    np.savez(other, x=X)
    with pytest.raises(ArtifactError, match="is not a whole state"):
        merge_calibrations(graph, [other])
    manifest = np.frombuffer(json.dumps(Manifest("report").to_dict()).encode(), np.uint8)
    np.savez(other, manifest=manifest, digests=np.zeros((0, 32), np.uint8))
    with pytest.raises(ArtifactError, match="is not a state of a calibration"):
        merge_calibrations(graph, [other])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"method": "mse"}, "its method is entropy, not mse"),
        ({"samples": 5}, "its samples is None, not 5"),
        ({"seed": 1}, "its seed is 0, not 1"),
        ({"random": 21, "data": None}, "its random is None, not 21"),
        ({"shard": "1/2"}, "its shard is 1/1, not 1/2"),
    ],
)
def test_a_state_of_other_options_is_refused(graph, state, options, reason):
    given = {"data": X, "method": "entropy", "state": state} | options
    content = state.read_bytes()
    with pytest.raises(ArtifactError, match=reason):
        calibrate(graph, **given)
    assert state.read_bytes() == content


def test_a_state_of_another_graph_is_refused(graph, state):
    model = block()
    model.graph.initializer[0].raw_data = model.graph.initializer[1].raw_data
    other = save(model, graph.parent / "other.onnx")
    with pytest.raises(ArtifactError, match="belongs to another graph"):
        calibrate(other, X, method="entropy", state=state)
    with pytest.raises(ArtifactError, match="belongs to another graph"):
        merge_calibrations(other, [state])


def test_a_state_of_other_data_is_refused(graph, state):
    other = X.copy()
    other[3] += 1
    with pytest.raises(ArtifactError, match=r"belongs to other data: sample \d+ differs"):
        calibrate(graph, other, method="entropy", state=state)
    stream = graph.parent / "stream.calib.state"
    calibrate(graph, iter(X), method="entropy", state=stream)
    with pytest.raises(ArtifactError, match="was made from 21 samples; this data has 20"):
        calibrate(graph, iter(X[:20]), method="entropy", state=stream)


def test_shards_that_do_not_belong_together_are_refused(graph):
    first, second = shards_of(graph, 2, method="entropy")
    with pytest.raises(ArtifactError, match="are of the shards 1/2; expected each of 1/2 to 2/2"):
        merge_calibrations(graph, [first])
    with pytest.raises(ArtifactError, match="are of the shards 1/2, 1/2; expected"):
        merge_calibrations(graph, [first, first])
    for data, options in ((X, {"method": "mse"}), (X[:20], {"method": "entropy"})):
        calibrate(graph, data, shard="2/2", state=graph.parent / "o.calib.state", **options)
        with pytest.raises(ArtifactError, match=r"another calibration|from other data"):
            merge_calibrations(graph, [first, graph.parent / "o.calib.state"])
        (graph.parent / "o.calib.state").unlink()
    loaded = CalibrationState.load(second)
    loaded.manifest.report["finished"] = False
    loaded.save(second)
    with pytest.raises(ArtifactError, match="is not finished"):
        merge_calibrations(graph, [first, second])
    with pytest.raises(SpecError, match="no state to merge"):
        merge_calibrations(graph, [])


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "1/4/2", "-1/4", " 1/4"])
def test_a_shard_of_another_form_is_refused(text):
    with pytest.raises(SpecError, match="expected 1/4 to 4/4 of four"):
        Shard.parse(text)


def test_a_shard_writes_its_state_and_no_table(graph):
    for options in ({}, {"state": graph.parent / "s", "output": graph.parent / "t.json"}):
        with pytest.raises(SpecError, match="writes its state and no table"):
            calibrate(graph, X, shard="1/2", **options)
    shards_of(graph, 2, method="minmax")
    assert not (graph.parent / "net.calib.json").exists()
