"""The way to Dask's workers. Whole calibrations and sweeps are in the tests of these.

`Answering` is a double of Dask's client: it gives the answers that it was made with.
"""

from __future__ import annotations

import gc
import importlib.metadata
import sys
import time

import distributed
import pytest
from distributed import Client

from edgeattn.cluster import (
    check_versions,
    check_workers,
    connect,
    first_answers,
    package_versions,
    workers_of,
)
from edgeattn.errors import BoardError, MissingDependencyError
from tests.clusters import local_cluster

HERE = {"edgeattn": "0.1.0", "onnxruntime": "1.32.0"}


class Answering:
    def __init__(self, scheduler_info=None, answers=None):
        self._scheduler_info, self._answers = scheduler_info, answers

    def scheduler_info(self, n_workers):
        assert n_workers == -1  # all: newer versions of Dask list five unless asked for more
        return self._scheduler_info

    def run(self, function, *arguments, on_error):
        assert on_error == "return"
        assert function(*arguments) == package_versions(*arguments)
        return self._answers


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://127.0.0.1:70000", ""])
def test_an_address_without_a_scheduler_is_one_error(monkeypatch, address):
    monkeypatch.setattr("edgeattn.cluster._CONNECT_S", 0.5)
    with pytest.raises(BoardError, match="there is no Dask scheduler at") as error:
        connect(address)
    assert error.value.hint == "start one: dask scheduler"
    # None is left for the garbage collector to close: it may do so in the middle of another start.
    clients = [found for found in gc.get_objects() if issubclass(type(found), Client)]
    assert {client.status for client in clients} == {"closed"}


def test_without_dask_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"dask.distributed is not installed") as error:
        connect("tcp://127.0.0.1:9")
    assert error.value.hint == "pip install 'edgeattn[sweep]'"


def test_workers_are_listed_and_a_lost_scheduler_is_not_one_without_workers():
    workers = {"tcp://a:1": {"nthreads": 1}}
    assert workers_of(Answering({"workers": workers})) == workers
    with pytest.raises(ConnectionError):
        workers_of(Answering({}))


def test_the_versions_are_those_that_are_installed():
    assert package_versions(["numpy"]) == {"numpy": importlib.metadata.version("numpy")}


def test_a_worker_without_edgeattn_or_with_another_package_is_refused():
    here = package_versions(["edgeattn", "numpy"])
    check_workers(Answering(answers={"tcp://a:1": here, "tcp://b:1": here}), list(here))
    missing = Exception("ModuleNotFoundError(\"No module named 'edgeattn'\")")
    with pytest.raises(BoardError, match=r"tcp://b:1 cannot run edgeattn .*No module named") as e:
        check_workers(Answering(answers={"tcp://a:1": here, "tcp://b:1": missing}), list(here))
    assert e.value.hint.endswith(f"pip install 'edgeattn[sweep]' numpy=={here['numpy']}")
    other = here | {"numpy": "1.0"}
    with pytest.raises(BoardError, match=r"the worker tcp://a:1 has numpy 1.0; expected \S+, as "):
        check_workers(Answering(answers={"tcp://a:1": other}), list(here))


@pytest.mark.parametrize("name", HERE)
def test_the_package_that_differs_is_named(name):
    check_versions("orin", HERE, HERE)
    with pytest.raises(BoardError, match=f"the worker orin has {name} 9; expected {HERE[name]}"):
        check_versions("orin", HERE | {name: "9"}, HERE)


@pytest.fixture
def cluster():
    """One worker."""
    with local_cluster(workers=1) as started:
        yield started


@pytest.fixture
def client(cluster, monkeypatch):
    monkeypatch.setattr("edgeattn.cluster._LOOK_S", 0.1)
    with connect(cluster.scheduler_address) as connected:
        yield connected


def has_worker(client):
    return lambda: bool(workers_of(client))


def test_answers_are_results_and_what_was_raised(client):
    def refuse():
        raise TimeoutError("of its own")  # is no sign that the answer was lost on its way

    good, bad = client.submit(int, "7"), client.submit(refuse)
    answers = {}
    while len(answers) < 2:
        tasks = [task for task in (good, bad) if task not in answers]
        answers |= first_answers(client, tasks, has_worker(client), 10.0)
    assert answers[good] == 7
    assert isinstance(answers[bad], TimeoutError)
    assert str(answers[bad]) == "of its own"


def test_without_a_worker_there_is_no_answer(cluster, client):
    cluster.scale(0)
    while workers_of(client):
        time.sleep(0.05)
    begin = time.monotonic()
    assert first_answers(client, [client.submit(int, "7")], has_worker(client), 1.0) == {}
    assert 1.0 <= time.monotonic() - begin < 30


@pytest.mark.parametrize("comes_back", [False, True])
def test_an_answer_that_dies_with_its_worker_is_waited_for_as_if_it_had_never_been(
    cluster, client, monkeypatch, comes_back
):
    wait = distributed.wait

    def lose_the_worker(*arguments, **options):
        ended = wait(*arguments, **options)  # or it has not ended in time, and is asked again
        monkeypatch.setattr(distributed, "wait", wait)
        cluster.scale(0)
        while workers_of(client):
            time.sleep(0.05)
        if comes_back:
            cluster.scale(1)
        return ended

    task = client.submit(int, "7")
    monkeypatch.setattr(distributed, "wait", lose_the_worker)
    patience_s = 60.0 if comes_back else 1.0
    answers = first_answers(client, [task], has_worker(client), patience_s)
    assert answers == ({task: 7} if comes_back else {})


def test_an_answer_that_takes_longer_than_a_look_is_fetched(client, monkeypatch):
    """A slow network, played by a result that is slow to be sent."""
    monkeypatch.setattr("edgeattn.cluster._LOOK_S", 0.2)
    task = client.submit(Slow)
    (answer,) = first_answers(client, [task], has_worker(client), 0.5).values()
    assert isinstance(answer, Slow)


class Slow:
    """Takes longer to pickle than the first look at the workers lasts."""

    def __reduce__(self):
        time.sleep(1.0)
        return Slow, ()
