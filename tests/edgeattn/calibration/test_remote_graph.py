"""What a worker has of a graph, without a cluster: opened once, it forgets between shards."""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgeattn.calibration import remote_graph
from edgeattn.calibration.collector import Collector, Run, split_into_runs
from edgeattn.calibration.observations import Observations
from edgeattn.calibration.remote_graph import RemoteGraph, pack, unpack
from edgeattn.errors import GraphError
from tests.graphs import save
from tests.quantization import block, floats, with_weights

X = floats(21, 4, 8)


def runs_of(x: np.ndarray) -> list[Run]:
    return list(split_into_runs({"x": x}, [f"sample {n}" for n in range(len(x))], 1))


def remote(model, folder, method="entropy") -> RemoteGraph:
    file = save(model, folder / "net.onnx")
    return RemoteGraph({"below/net.onnx": file.read_bytes()}, method, 99.99, runs_of(X[:1])[0])


def locally(model, x: np.ndarray, method="entropy") -> dict[str, np.ndarray]:
    seen = Observations(model, method, 99.99)
    with Collector(model, seen.observers, seen.channel_observers) as collector:
        collector.observe({"x": x}, [str(n) for n in range(len(x))])
        collector.settle()
    return seen.state()


def same(given: bytes, expected: dict[str, np.ndarray]) -> bool:
    found = unpack(given)
    return found.keys() == expected.keys() and all(
        array.dtype == expected[name].dtype and np.array_equal(array, expected[name])
        for name, array in found.items()
    )


@pytest.fixture
def opened(monkeypatch) -> list:
    """One entry for each time that a graph was opened."""
    times = []
    monkeypatch.setattr(
        remote_graph, "Collector", lambda *given: times.append(1) or Collector(*given)
    )
    return times


@pytest.mark.parametrize("method", ["minmax", "average", "auto"])
def test_each_shard_is_seen_alone_by_a_graph_that_is_opened_once(tmp_path, opened, method):
    graph = remote(block(), tmp_path, method)
    for x in (X[:5], X[5:], X[:1]):
        assert same(graph.observe(runs_of(x)), locally(block(), x, method))
    assert len(opened) == 1


def test_shards_side_by_side_do_not_meet(tmp_path, opened):
    graph = remote(block(), tmp_path)
    parts = [floats(30 + number, 4, 8) for number in range(6)]
    with ThreadPoolExecutor(3) as threads:
        states = list(threads.map(lambda x: graph.observe(runs_of(x)), parts))
    assert all(same(s, locally(block(), x)) for s, x in zip(states, parts, strict=True))
    assert 1 <= len(opened) <= 3


def test_a_shard_that_fails_leaves_nothing_in_the_next(tmp_path):
    text = "g (float[N,4,8] x) => (float[N,4,3] y) { z = Log(x) y = MatMul(z, w) }"
    model = with_weights(text, {"w": floats(8, 3)})
    graph = remote(model, tmp_path)
    good, bad = np.abs(X) + 1, np.abs(X) + 1
    bad[3] *= -1
    with pytest.raises(GraphError, match="the tensor z takes on NaN or infinity on sample 3"):
        graph.observe(runs_of(bad))
    assert same(graph.observe(runs_of(good)), locally(model, good))


def test_a_graph_travels_as_its_files_and_computes_the_same_there(tmp_path, opened):
    graph = remote(block(), tmp_path)
    there = pickle.loads(pickle.dumps(graph))
    assert not opened  # where it only passes through, a scheduler, nothing runs
    assert same(there.observe(runs_of(X)), unpack(graph.observe(runs_of(X))))
    assert len(pickle.dumps(graph)) == len(pickle.dumps(there))  # what is open does not travel
    # By this Dask plans transfers.
    assert sys.getsizeof(graph) > (tmp_path / "net.onnx").stat().st_size


def test_the_fingerprint_tells_whether_the_same_bits_come_out(tmp_path):
    graph = remote(block(), tmp_path)
    there = pickle.loads(pickle.dumps(graph))
    there.observe(runs_of(X))
    assert there.fingerprint == graph.fingerprint
    model = block()
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "w1")
    bits = np.frombuffer(weight.raw_data, np.uint32).copy()
    bits += 1  # the last bit of each
    weight.raw_data = bits.tobytes()
    assert remote(model, tmp_path, "minmax").fingerprint != (
        remote(block(), tmp_path, "minmax").fingerprint
    )


def test_what_is_packed_is_small_and_comes_back(tmp_path):
    state = locally(block(), X)
    assert same(pack(state), state)
    assert len(pack(state)) < sum(array.nbytes for array in state.values()) / 20
