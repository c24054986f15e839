"""A Dask scheduler and its workers: machines that sweeps and calibrations can be sent to."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeattn.errors import BoardError, MissingDependencyError, first_line

if TYPE_CHECKING:
    from distributed import Client, Future

_CONNECT_S = 10
_LOOK_S = 5.0  # how often to look for workers while none answers


def connect(scheduler: str) -> Client:
    """Connect to a scheduler.

    Args:
        scheduler: Its address, `tcp://host:8786`.

    Returns:
        A client to close, nobody's default.

    Raises:
        BoardError: If there is no scheduler.
        MissingDependencyError: If dask.distributed is not installed.
    """
    try:
        from distributed import Client
    except ImportError as err:
        raise MissingDependencyError(
            "dask.distributed is not installed", "pip install 'edgeattn[sweep]'"
        ) from err

    class ClosedOnFailure(Client):  # type: ignore[misc]  # Dask has no types
        """Closes itself where it cannot start.

        Left to the garbage collector, it can be closed while this thread starts the next client,
        and both want the same lock of Dask's: neither would ever go on.
        """

        def start(self, **options: Any) -> None:
            try:
                super().start(**options)
            except BaseException:
                self.close()
                raise

    try:
        return ClosedOnFailure(scheduler, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as err:
        raise BoardError(
            f"there is no Dask scheduler at {scheduler}: {first_line(err)}",
            "start one: dask scheduler",
        ) from err


def workers_of(client: Client) -> dict[str, dict[str, Any]]:
    """List the workers that a scheduler has at this moment, by address, as Dask describes them.

    Raises:
        ConnectionError: If the client has lost its scheduler.
    """
    description = client.scheduler_info(n_workers=-1)
    if "workers" not in description:
        raise ConnectionError("the scheduler does not answer")
    return dict(description["workers"])


def first_answers(
    client: Client,
    tasks: Collection[Future[Any]],
    has_worker: Callable[[], bool],
    patience_s: float,
) -> dict[Future[Any], Any]:
    """Wait for the first of some tasks, as long as there are workers for them.

    Args:
        client: Whose tasks they are.
        tasks: At least one.
        has_worker: Tells whether there is a worker that may finish one of them.
        patience_s: How long there may be none, in seconds.

    Returns:
        The results of those that have ended, or what they raised; none if there has been no worker
        for too long.

    Raises:
        ConnectionError: If the client has lost its scheduler.
    """
    from distributed import TimeoutError as DaskTimeoutError

    fetch_s = _LOOK_S
    last_seen_s = time.monotonic()
    while time.monotonic() - last_seen_s <= patience_s:
        try:
            return _first_answers(client, tasks, fetch_s)
        except DaskTimeoutError:  # an OSError in some versions of Python
            if client.status == "closed":  # it has tried to connect again, in vain
                raise ConnectionError("the scheduler does not answer") from None
            if has_worker():
                last_seen_s = time.monotonic()
            fetch_s *= 2  # however slow the way is, an answer comes through
    return {}


def _first_answers(
    client: Client, tasks: Collection[Future[Any]], fetch_s: float
) -> dict[Future[Any], Any]:
    """Do as `first_answers`, with a time after which to look for workers.

    Raises:
        distributed.TimeoutError: If none has ended by then, or no result could be fetched: it is
            lost if its worker dies before, and the task begins anew.
    """
    from distributed import TimeoutError as DaskTimeoutError
    from distributed import wait

    with client.as_current():
        ended = wait(list(tasks), timeout=_LOOK_S, return_when="FIRST_COMPLETED").done
    answers: dict[Future[Any], Any] = {}
    for task in ended:
        failed = task.status == "error"
        try:
            answers[task] = task.result(timeout=fetch_s)
        except Exception as err:
            # What a task itself raised may be of this type too.
            if failed or not isinstance(err, DaskTimeoutError):
                answers[task] = err
    if not answers:
        raise DaskTimeoutError
    return answers


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """Give the versions of packages that are installed here, by name.

    Raises:
        importlib.metadata.PackageNotFoundError: If one is not installed.
    """
    return {name: importlib.metadata.version(name) for name in packages}


def check_workers(client: Client, packages: Sequence[str]) -> None:
    """Refuse workers on which packages are missing or of other versions than here.

    Raises:
        BoardError: If there is such a worker.
    """
    here = package_versions(packages)
    answers = client.run(package_versions, list(packages), on_error="return")
    for address, versions in sorted(answers.items()):
        if isinstance(versions, BaseException):
            raise BoardError(
                f"the worker {address} cannot run edgeattn {here['edgeattn']}: "
                f"{first_line(versions)}",
                _same_there(here),
            )
        check_versions(address, versions, here)


def check_versions(worker: str, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Refuse a worker with other versions of packages.

    Args:
        worker: Its name or address.
        there: Its versions by package.
        here: Those that it should have.

    Raises:
        BoardError: If one differs.
    """
    for name, version in here.items():
        if there[name] != version:
            raise BoardError(
                f"the worker {worker} has {name} {there[name]}; expected {version}, as here",
                _same_there(here),
            )


def _same_there(here: Mapping[str, str]) -> str:
    pinned = [f"{name}=={version}" for name, version in here.items() if name != "edgeattn"]
    wanted = " ".join(["'edgeattn[sweep]'", *pinned])
    return f"install the same on the scheduler and every worker: pip install {wanted}"
