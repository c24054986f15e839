"""A Dask scheduler and its workers: machines that sweeps and calibrations can be sent to."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeattn.errors import BoardError, MissingDependencyError, first_line

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_S = 10


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
    try:
        return Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
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
