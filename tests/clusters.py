"""Dask clusters of this machine's processes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from distributed import LocalCluster


@contextlib.contextmanager
def local_cluster(workers: int = 2) -> Iterator[LocalCluster]:
    """Start a scheduler here, and workers of one thread, each a process that is started again."""
    with LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster
