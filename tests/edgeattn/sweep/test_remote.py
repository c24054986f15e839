"""Sweeps over the workers of a Dask cluster on this machine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import onnx
import pytest
from distributed import Client

from edgeattn.errors import BoardError
from edgeattn.graph.files import graph_sha256
from edgeattn.sweep.cases import expand
from edgeattn.sweep.remote import _Dispatch, parcel, unpack
from edgeattn.sweep.results import read_rows
from edgeattn.sweep.run import Workbench, run_sweep
from edgeattn.sweep.spec import read_spec
from tests.edgeattn.sweep.sweeps import PRODUCT, write_network, write_sweep

FLOATS = PRODUCT.replace('["fp32", "int8"]', '["fp32"]')
TWELVE = FLOATS.replace("[1, 3]", str(list(range(1, 13))))
AT_ONCE = 2  # what a worker is sent, all of which may have ended when it is looked at


class Cluster:
    """A scheduler and workers, each a process that nobody restarts."""

    def __init__(self, folder):
        self._folder = folder
        address_file = folder / "scheduler.json"
        self.processes = []
        self._start("scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        self.address = self._wait_for_address(address_file)

    def _start(self, kind, *arguments):
        log = (self._folder / f"{kind}{len(self.processes)}.log").open("wb")
        if kind == "scheduler":
            arguments = (*arguments, "--scheduler-file", str(self._folder / "scheduler.json"))
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + kind, *arguments],
            cwd=self._folder,
            env=os.environ | {"TMPDIR": str(self._folder)},  # what a killed worker leaves
            stdout=log,
            stderr=log,
        )
        log.close()
        self.processes.append(process)
        return process

    def _wait_for_address(self, file):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                return json.loads(file.read_text())["address"]
            except (FileNotFoundError, ValueError):
                time.sleep(0.05)
        raise AssertionError((self._folder / "scheduler0.log").read_text())

    def add_worker(self, *arguments, threads=1):
        flags = ("--nthreads", str(threads), "--no-nanny", "--no-dashboard")
        worker = self._start("worker", self.address, *flags, *arguments)
        count = len(self.processes) - 1
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)
        return worker

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    folder = tmp_path / "cluster"
    folder.mkdir()
    started = Cluster(folder)
    yield started
    started.stop()


def test_cases_run_on_the_workers_that_have_their_board(tmp_path, cluster):
    text = FLOATS.replace("[models", 'boards = ["orin-nano"]\n[models', 1)
    spec = write_sweep(tmp_path, text)
    cluster.add_worker("--name", "another machine")
    with pytest.raises(BoardError, match="no worker offers the resource orin-nano"):
        run_sweep(spec, scheduler=cluster.address)
    cluster.add_worker("--name", "a board", "--resources", "orin-nano=1")
    outcome = run_sweep(spec, scheduler=cluster.address)
    assert len(outcome.rows) == 2
    for row in outcome.rows:
        assert (row["error"], row["worker"]) == (None, "a board")
        assert row["seconds"] > 0
        assert row["figures"]["top1_b"] == 100
        # The report came back, the engine was left.
        assert (outcome.path.parent / "reports" / f"{row['case']}.profile.json").exists()
    assert not (outcome.path.parent / "engines").exists()


def test_a_case_takes_what_its_graphs_and_its_worker_took_not_what_it_waited(tmp_path):
    case, *_ = expand(read_spec(write_sweep(tmp_path, FLOATS)))
    rows = []
    dispatch = _Dispatch(None, Workbench(tmp_path, tmp_path), rows.append, {"": 1})
    future = object()
    dispatch._running[future] = (case, 0.5)
    dispatch._receive(future, {"result": {"figures": {}}, "seconds": 2.5})
    assert [(row["status"], row["seconds"]) for row in rows] == [("ok", 3.0)]


def test_a_case_never_gets_the_result_of_an_earlier_sweep(tmp_path):
    case, *_ = expand(read_spec(write_sweep(tmp_path, FLOATS)))

    class Noting:
        """A double of Dask's client, which knows a task that it has seen by its key."""

        def submit(self, function, *arguments, key, **options):
            keys.append(key)
            return object()

    keys = []
    dispatch = _Dispatch(Noting(), Workbench(tmp_path, tmp_path), print, {"": 1})
    for _ in range(2):
        dispatch._send(case)
    assert len(set(keys)) == 2
    assert all(case.id in key for key in keys)


def test_a_worker_that_would_measure_two_cases_at_once_is_refused(tmp_path, cluster):
    cluster.add_worker(threads=2)
    with pytest.raises(BoardError, match="would measure 2 cases at once"):
        run_sweep(write_sweep(tmp_path, FLOATS), scheduler=cluster.address)


def test_a_scheduler_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeattn.cluster._CONNECT_S", 0.5)
    with pytest.raises(BoardError, match=r"there is no Dask scheduler at tcp://127.0.0.1:9"):
        run_sweep(write_sweep(tmp_path, FLOATS), scheduler="tcp://127.0.0.1:9")


def test_a_scheduler_that_is_lost_is_an_error_and_fails_no_case(tmp_path, cluster):
    cluster.add_worker()
    spec = write_sweep(tmp_path, TWELVE)

    def lose_the_scheduler(done, total, label):
        if done == 1:
            cluster.processes[0].kill()

    with pytest.raises(BoardError, match=r"the Dask scheduler at \S+ was lost") as error:
        run_sweep(spec, scheduler=cluster.address, progress=lose_the_scheduler)
    assert "--resume" in error.value.hint
    rows = read_rows(tmp_path / "sweep" / "results.jsonl")
    assert 1 <= len(rows) <= AT_ONCE
    assert {row["error"] for row in rows} == {None}  # the other cases have none: they run again


def test_a_board_that_does_not_come_back_is_waited_for_and_then_an_error(
    tmp_path, cluster, monkeypatch, caplog
):
    monkeypatch.setattr("edgeattn.cluster._LOOK_S", 0.1)
    monkeypatch.setattr("edgeattn.sweep.remote._PATIENCE_S", 1.0)
    worker = cluster.add_worker("--resources", "orin-nano=1")
    text = TWELVE.replace("[models", 'boards = ["orin-nano"]\n[models', 1)
    spec = write_sweep(tmp_path, text)

    def lose_the_board(done, total, label):
        if done == 1:
            worker.kill()

    with pytest.raises(BoardError, match="no worker has offered orin-nano for 1 s") as error:
        run_sweep(spec, scheduler=cluster.address, progress=lose_the_board)
    assert "--resume" in error.value.hint
    warnings = [text for text in caplog.messages if "no worker offers orin-nano now" in text]
    assert len(warnings) == 1
    rows = read_rows(tmp_path / "sweep" / "results.jsonl")
    assert 1 <= len(rows) <= AT_ONCE
    assert {row["error"] for row in rows} == {None}


def test_a_graph_travels_with_its_weights_wherever_they_stand(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "weights").mkdir(parents=True)
    write_network(here)
    model = onnx.load(here / "net.onnx")
    onnx.save(
        model,
        here / "large.onnx",
        save_as_external_data=True,
        location="weights/all.bin",
        size_threshold=0,
    )
    sent = unpack(parcel(here / "large.onnx"), there)
    assert sent == there / "large.onnx"
    assert (there / "weights" / "all.bin").exists()
    assert graph_sha256(sent) == graph_sha256(here / "large.onnx")
    labels = unpack(parcel(here / "labelled.npz"), there / "data")
    assert labels.read_bytes() == (here / "labelled.npz").read_bytes()


def children(pid):
    """The processes that a process has started: of a worker, the case that it measures."""
    with contextlib.suppress(FileNotFoundError):
        files = Path(f"/proc/{pid}/task").glob("*/children")
        return [child for file in files for child in file.read_text().split()]
    return []


@pytest.mark.slow
def test_of_twelve_cases_none_is_lost_or_doubled_when_a_worker_is_killed(tmp_path, cluster):
    spec = write_sweep(tmp_path, TWELVE)
    victim, _ = cluster.add_worker(), cluster.add_worker()
    done_before = []

    def kill_at_work():
        while len(done) < 3 or not children(victim.pid):
            time.sleep(0.005)
        done_before.append(len(done))
        os.kill(victim.pid, signal.SIGKILL)

    done = []
    threading.Thread(target=kill_at_work, daemon=True).start()
    outcome = run_sweep(spec, scheduler=cluster.address, progress=lambda *step: done.append(step))
    assert victim.wait() == -signal.SIGKILL
    assert 3 <= done_before[0] < 12
    expected = sorted(case.id for case in expand(read_spec(spec)))
    assert len(expected) == 12
    assert sorted(row["case"] for row in read_rows(outcome.path)) == expected
    assert [row["error"] for row in outcome.rows] == [None] * 12
