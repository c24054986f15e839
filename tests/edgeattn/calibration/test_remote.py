"""Calibration on the workers of a Dask cluster on this machine, against the same one here."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from PIL import Image

from edgeattn.artifacts import Manifest
from edgeattn.calibration.checkpoint import CalibrationState
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.observers import METHODS
from edgeattn.calibration.remote_graph import RemoteGraph
from edgeattn.calibration.shards import merge_calibrations
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import BoardError, DataError, GraphError, SpecError
from edgeattn.graph.files import save_graph
from tests.graphs import save
from tests.quantization import block, floats, with_weights

X = floats(21, 4, 8)


@contextlib.contextmanager
def local_cluster(workers: int = 2, **options) -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
        **options,
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as started:
        yield started


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(block(), tmp_path / "net.onnx")


def content(graph: Path, data, **options) -> bytes:
    return calibrate(graph, data, graph.parent / "t.calib.json", **options).read_bytes()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shards", [None, 1, 2, 5, 50])
def test_the_table_of_the_workers_is_the_local_one_bit_for_bit(cluster, graph, method, shards):
    options = {"method": method, "samples": 17, "seed": 3, "batch_size": 4}
    expected = content(graph, X, **options)
    scheduler = cluster.scheduler_address
    assert content(graph, X, scheduler=scheduler, shards=shards, **options) == expected
