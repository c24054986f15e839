"""Calibration on the workers of a Dask cluster on this machine, against the same one here."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import onnx
import pytest
from distributed import Client, LocalCluster
from onnx import numpy_helper
from PIL import Image

from edgeattn.artifacts import Manifest
from edgeattn.calibration.checkpoint import CalibrationState
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.dispatch import Dispatch
from edgeattn.calibration.observers import METHODS
from edgeattn.calibration.remote_graph import RemoteGraph
from edgeattn.calibration.shards import merge_calibrations
from edgeattn.calibration.table import CalibTable
from edgeattn.cli.main import run
from edgeattn.errors import BoardError, DataError, GraphError, SpecError
from edgeattn.graph.files import save_graph
from tests.clusters import local_cluster
from tests.graphs import save
from tests.quantization import block, floats, with_weights

X = floats(21, 4, 8)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as started:
        yield started


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(block(), tmp_path / "net.onnx")


def content(graph: Path, data, **options) -> bytes:
    return calibrate(graph, data, graph.parent / "t.calib.json", **options).read_bytes()


@pytest.fixture
def answers(monkeypatch) -> list:
    """What the workers answered, in the order in which it was merged."""
    seen = []
    checked = Dispatch._checked
    monkeypatch.setattr(
        Dispatch, "_checked", lambda *given: seen.append(checked(*given)) or seen[-1]
    )
    return seen


@pytest.mark.parametrize("method", METHODS)
def test_the_table_of_the_workers_is_the_local_one_bit_for_bit(cluster, graph, method):
    options = {"method": method, "samples": 17, "seed": 3, "batch_size": 4}
    expected = content(graph, X, **options)
    for shards in (None, 5):
        remote = content(graph, X, scheduler=cluster.scheduler_address, shards=shards, **options)
        assert remote == expected


@pytest.mark.parametrize(
    ("samples", "shards", "sent"),
    [(21, 1, 1), (21, 2, 2), (21, 4, 4), (21, 500, 21), (1, None, 1), (1, 3, 1), (3, 2, 2)],
)
def test_no_number_of_samples_and_shards_changes_a_bit(
    cluster, graph, answers, samples, shards, sent
):
    expected = content(graph, X[:samples], method="mse")
    scheduler = cluster.scheduler_address
    remote = content(graph, X[:samples], method="mse", scheduler=scheduler, shards=shards)
    assert remote == expected
    assert len(answers) == sent


def test_all_workers_take_part(cluster, graph, answers):
    scheduler = cluster.scheduler_address
    content(graph, floats(200, 4, 8), method="entropy", scheduler=scheduler, shards=40)
    assert len({answer.worker for answer in answers}) == 2


def test_a_graph_of_fixed_batch_size_runs_whole_batches(cluster, tmp_path, answers):
    model = block()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    graph = save(model, tmp_path / "net.onnx")
    expected = content(graph, X, method="average")
    assert (
        content(graph, X, method="average", scheduler=cluster.scheduler_address, shards=3)
        == expected
    )
    report = CalibTable.load(tmp_path / "t.calib.json").manifest.report
    assert (report["samples"], report["left_out"]) == (20, 1)
    assert len(answers) == 3  # of two, two and one batches


def image_graph(folder: Path) -> Path:
    model = with_weights(
        "g (float[batch,1,H,W] x) => (float[A,B,C,D] y) { z = Relu(x) y = Conv(z, w) }",
        {"w": floats(2, 1, 3, 3)},
    )
    preprocess = {"mean": [0.5], "std": [1]}
    inputs = [{"name": "x", "shape": ["batch", 1, "H", "W"], "preprocess": preprocess}]
    return save_graph(model, folder / "net.onnx", Manifest("graph", options={"inputs": inputs}))


def test_images_are_read_here_and_the_bad_ones_listed(cluster, tmp_path):
    graph, images = image_graph(tmp_path), tmp_path / "images"
    images.mkdir()
    for value in range(9):  # of different sizes
        Image.fromarray(np.full((6 + value, 6), 20 * value, np.uint8)).save(images / f"{value}.png")
    (images / "a.png").write_text("a text file")
    (images / "notes.txt").write_text("no image")
    options = {"method": "percentile", "max_bad": 1, "seed": 1, "batch_size": 1}
    expected = content(graph, images, **options)

    def remove_when_read(done, total, what):
        if what == "shards":
            shutil.rmtree(images, ignore_errors=True)

    # One shard: nothing is sent before all is read, so that workers have nothing but what they got.
    options |= {"scheduler": cluster.scheduler_address, "shards": 1, "progress": remove_when_read}
    assert content(graph, images, **options) == expected
    assert not images.exists()
    report = CalibTable.load(tmp_path / "t.calib.json").manifest.report
    assert len(report["skipped"]) == 1
    assert report["ignored"] == ["notes.txt"]


def test_streams_and_random_samples_run_on_workers_too(cluster, graph, monkeypatch, answers):
    monkeypatch.setattr("edgeattn.calibration.remote._RUNS_OF_STREAM", 6)
    scheduler = cluster.scheduler_address
    expected = content(graph, iter(X), method="entropy")
    assert content(graph, iter(X), method="entropy", scheduler=scheduler) == expected
    assert len(answers) == 4  # nobody knew how many would come
    expected = content(graph, None, random=9)
    assert content(graph, None, random=9, scheduler=scheduler) == expected


def test_a_shard_is_no_larger_than_the_scheduler_has_room_for(cluster, graph, monkeypatch, answers):
    monkeypatch.setattr("edgeattn.calibration.remote._MOST_BYTES", 2 * X[0].nbytes)
    content(graph, X, method="minmax", scheduler=cluster.scheduler_address)
    assert len(answers) == 11
    content(graph, X, method="minmax", scheduler=cluster.scheduler_address, shards=1)
    assert len(answers) == 12  # the user knows better


def test_samples_of_many_megabytes_travel_without_a_word(cluster, tmp_path, recwarn):
    # From 10 MB on Dask advises against sending data with a task.
    model = with_weights("g (float[N,L] x) => (float[N,1] y) { y = MatMul(x, w) }", {})
    model.graph.initializer.append(numpy_helper.from_array(floats(300_000, 1), "w"))
    graph, x = save(model, tmp_path / "net.onnx"), floats(10, 300_000)
    options = {"scheduler": cluster.scheduler_address, "shards": 1}
    expected = content(graph, x, method="minmax")
    assert content(graph, x, method="minmax", **options) == expected
    assert not recwarn


def test_weights_beside_the_graph_travel_with_it(cluster, tmp_path):
    text = "g (float[N,40] x) => (float[N,20] y) { z = MatMul(x, v) y = MatMul(z, w) }"
    model = with_weights(text, {"v": floats(40, 30), "w": floats(30, 20)})
    (tmp_path / "weights").mkdir()
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="weights/all.bin")
    graph, x = tmp_path / "net.onnx", floats(9, 40)
    expected = content(graph, x, method="minmax")
    assert content(graph, x, method="minmax", scheduler=cluster.scheduler_address) == expected


# What is wrong with a sample.

LOGARITHM = """g (float[N,L] x) => (float[N,4] y) {
    a = MatMul(x, v) b = Log(a) y = MatMul(b, w) }"""


@pytest.fixture
def logarithm(tmp_path: Path) -> Path:
    """A graph that makes NaN of negative inputs, and does not run on other than 6 of them."""
    weights = {"v": np.eye(6, dtype=np.float32), "w": floats(6, 4)}
    return save(with_weights(LOGARITHM, weights), tmp_path / "net.onnx")


@pytest.mark.parametrize("last_first", [False, True])
def test_the_first_sample_that_fails_is_named_as_it_is_here(
    cluster, logarithm, monkeypatch, last_first
):
    x = np.ones((30, 6), np.float32)
    x[[4, 11, 17, 29], 2] = -1
    with pytest.raises(GraphError) as here:
        calibrate(logarithm, iter(x), method="minmax")
    assert here.value.message == (
        "the tensor b takes on NaN or infinity on sample 0 of item 4 of an iterable"
    )
    wait = Dispatch._wait
    if last_first:  # as if the worker of the last shard were always the fastest
        monkeypatch.setattr(Dispatch, "_wait", lambda self, them: wait(self, list(them)[-1:]))
    monkeypatch.setattr("edgeattn.calibration.dispatch._SENT_PER_WORKER", 20)
    options = {"method": "minmax", "samples": 30, "shards": 12}
    with pytest.raises(GraphError) as there:
        calibrate(logarithm, iter(x), scheduler=cluster.scheduler_address, **options)
    assert (there.value.message, there.value.hint) == (here.value.message, here.value.hint)
    assert not logarithm.with_suffix(".calib.json").exists()


def test_a_sample_on_which_the_graph_does_not_run_is_named(cluster, logarithm):
    samples = [np.ones((1, 6 + (number == 5)), np.float32) for number in range(9)]
    scheduler = cluster.scheduler_address
    with pytest.raises(GraphError, match="cannot run the graph on sample 0 of item 5 of an iter"):
        calibrate(logarithm, samples, method="minmax", batch_size=1, scheduler=scheduler)


def test_data_that_cannot_be_read_fails_as_it_does_here(cluster, graph, tmp_path):
    x = X.copy()
    x[7, 1, 1] = np.nan
    scheduler = cluster.scheduler_address
    with pytest.raises(DataError, match="input x in sample 7 of an array holds NaN"):
        calibrate(graph, x, method="minmax", scheduler=scheduler)


# What becomes of workers.


@contextlib.contextmanager
def killing(cluster: LocalCluster, after: int, at_most: int = 1) -> Iterator[tuple]:
    """Kill workers that have a shard in their hands, once so many samples are on their way.

    Yields:
        A progress callback, which looks once whenever it is called, and the processes killed.
    """
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        pids, killed = client.run(os.getpid), []

        def progress(done, total, what):
            if what != "calibrating" or done < after or len(killed) == at_most:
                return
            at_work = [address for address, tasks in client.processing().items() if tasks]
            if at_work:
                if at_work[0] not in pids:  # was started since
                    pids.update(client.run(os.getpid))
                killed.append(pids[at_work[0]])
                os.kill(killed[-1], signal.SIGKILL)

        yield progress, killed


def test_a_killed_worker_costs_no_sample_and_counts_none_twice(graph):
    x = floats(600, 4, 8)
    expected = content(graph, x, method="entropy")  # has how many values were seen
    with local_cluster() as cluster, killing(cluster, 60) as (progress, killed):
        options = {"scheduler": cluster.scheduler_address, "shards": 200, "progress": progress}
        assert content(graph, x, method="entropy", **options) == expected
        assert len(killed) == 1


def test_samples_that_no_worker_survives_are_an_error(graph):
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        local_cluster() as cluster,
        # Again, where a worker had ended its shard just before.
        killing(cluster, 100, at_most=10) as (progress, _),
    ):
        options = {"scheduler": cluster.scheduler_address, "shards": 150}
        with pytest.raises(BoardError, match=r"no worker finished 4 samples, sample \d+ of an arr"):
            calibrate(graph, floats(600, 4, 8), method="mse", progress=progress, **options)


def test_a_cluster_without_workers_is_refused_and_one_that_loses_them_not_waited_for(
    graph, monkeypatch
):
    monkeypatch.setattr("edgeattn.cluster._LOOK_S", 0.1)
    monkeypatch.setattr("edgeattn.calibration.dispatch._PATIENCE_S", 1.0)
    with local_cluster(workers=0) as cluster:
        scheduler = cluster.scheduler_address
        with pytest.raises(BoardError, match="has no worker"):
            calibrate(graph, X, scheduler=scheduler)
        cluster.scale(1)
        cluster.wait_for_workers(1, timeout=60)

        def dismiss(done, total, what):
            cluster.scale(0)

        with pytest.raises(BoardError, match="has had no worker for 1 s"):
            calibrate(graph, X, scheduler=scheduler, shards=21, progress=dismiss)


def test_a_scheduler_that_is_not_there_or_goes_is_an_error(graph, monkeypatch):
    monkeypatch.setattr("edgeattn.cluster._CONNECT_S", 0.5)
    with pytest.raises(BoardError, match=r"there is no Dask scheduler at tcp://127.0.0.1:9"):
        calibrate(graph, X, scheduler="tcp://127.0.0.1:9")
    with local_cluster(workers=1) as cluster:

        def close(done, total, what):
            cluster.close()

        with pytest.raises(BoardError, match=r"the connection to the scheduler tcp:.* was lost"):
            calibrate(graph, X, scheduler=cluster.scheduler_address, shards=21, progress=close)


def test_a_worker_with_other_packages_is_refused_before_anything_is_read(
    cluster, graph, monkeypatch
):
    def data():
        raise AssertionError("was read")
        yield

    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "1.2.3" if name == "onnxruntime" else version(name),
    )
    with pytest.raises(BoardError, match=r"has onnxruntime \S+; expected 1.2.3, as here") as error:
        calibrate(graph, data(), scheduler=cluster.scheduler_address)
    assert "onnxruntime==1.2.3" in error.value.hint
    # A worker that came later was not asked; its answer says what it has.
    monkeypatch.setattr("edgeattn.calibration.dispatch.check_workers", lambda *given: None)
    with pytest.raises(BoardError, match=r"has onnxruntime \S+; expected 1.2.3, as here"):
        calibrate(graph, X, scheduler=cluster.scheduler_address)


def test_a_worker_whose_last_bits_differ_is_named_once(cluster, graph, monkeypatch, caplog):
    expected = content(graph, X, method="mse")
    options = {"method": "mse", "scheduler": cluster.scheduler_address, "shards": 21}
    content(graph, X, **options)
    warning = "computes other last bits than this machine"
    assert warning not in caplog.text
    monkeypatch.setattr(RemoteGraph, "fingerprint", "that of another processor")
    assert content(graph, X, **options) == expected
    warnings = [message for message in caplog.messages if warning in message]
    assert 1 <= len(warnings) == len(set(warnings)) <= 2


# States and choices.


def test_a_state_goes_over_to_the_workers_and_back(cluster, graph, monkeypatch, answers):
    state, scheduler = graph.parent / "s.calib.state", cluster.scheduler_address
    expected = content(graph, X, method="entropy")

    def stream(count):
        yield from X[:count]
        if count < len(X):
            raise KeyboardInterrupt

    monkeypatch.setattr("edgeattn.calibration.collect.INTERVAL_S", 0)
    options = {"method": "entropy", "state": state}
    expected = content(graph, iter(X), method="entropy")
    with pytest.raises(KeyboardInterrupt):  # here, the first eight
        calibrate(graph, stream(9), **options)
    with pytest.raises(KeyboardInterrupt):  # there, the next eight
        calibrate(graph, stream(17), scheduler=scheduler, **options)
    assert len(CalibrationState.load(state).digests) == 16
    assert sum(len(answer.state) > 0 for answer in answers) == 1
    assert content(graph, stream(21), scheduler=scheduler, **options) == expected
    assert merge_calibrations(graph, [state], graph.parent / "m.json").read_bytes() == expected


def test_choices_that_contradict_each_other_are_refused(cluster, graph):
    scheduler = cluster.scheduler_address
    for given, message in (
        ({"shard": "1/2", "state": "s", "scheduler": scheduler}, "workers share all samples"),
        ({"shards": 3}, "3 shards are asked for, and no scheduler"),
        ({"shards": 0, "scheduler": scheduler}, "shards is 0; expected at least 1"),
    ):
        with pytest.raises(SpecError, match=message):
            calibrate(graph, X, **given)
    with pytest.raises(SpecError, match="an iterable does not tell how many samples there are"):
        calibrate(graph, iter(X), scheduler=scheduler, shards=3)


def test_the_command_line_sends_samples_to_workers(cluster, graph, monkeypatch, capfd):
    monkeypatch.chdir(graph.parent)
    np.save("x.npy", X)
    expected = content(graph, Path("x.npy"), method="average")
    line = (
        f"calibrate net.onnx --data x.npy --method average --scheduler {cluster.scheduler_address}"
    )
    assert run([*line.split(), "--shards", "4", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["report"]["samples"] == 21
    assert Path("net.calib.json").read_bytes() == expected
    assert run([*line.split(), "--merge", "s"]) == 2
    assert "--merge measures nothing; it cannot go with" in capfd.readouterr().err
