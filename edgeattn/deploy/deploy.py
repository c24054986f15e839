"""Bring a bundle to boards: send what they lack, and let each build, verify, profile and activate.

References:
    docs/deploy.md: what is on a board afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeattn.artifacts import check_writable, write_bytes
from edgeattn.bundle.read import Bundle
from edgeattn.bundle.recipe import Recipe
from edgeattn.deploy.measured_shapes import measured_shapes
from edgeattn.deploy.pieces import Piece
from edgeattn.deploy.plan import FETCHED, REPORT, check_board, make_plan, make_shipment
from edgeattn.deploy.remote import RETRY_S, RemoteBoard
from edgeattn.deploy.ssh import Connection
from edgeattn.deploy.wheel import pack_wheel, wheel_name
from edgeattn.errors import ArtifactError, DeployError, EdgeAttnError
from edgeattn.profiling.report import read_report

FOLDER = "~/edgeattn-deployed"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BoardProgress:
    """How far a board is.

    Attributes:
        board: Its name.
        step: What it is at.
        done: How far; bytes of an upload.
        total: Out of how much; `None` if that is not known.
        detail: What is done at the moment.
    """

    board: str
    step: str
    done: int = 0
    total: int | None = None
    detail: str = ""


Notify = Callable[[BoardProgress], None]


@dataclass(frozen=True)
class Reach:
    """How boards are reached.

    Attributes:
        folder: Their deployment folder.
        python: Their Python.
        ssh_config: A config of ssh in place of the user's own.
        retry_s: Waits before a lost connection is made again, in seconds.
    """

    folder: str = FOLDER
    python: str = "python3"
    ssh_config: Path | None = None
    retry_s: Sequence[float] = RETRY_S


@dataclass(frozen=True)
class Deployment:
    """What became of a deployment on one board.

    Attributes:
        board: The board's name.
        destination: Its address as it was given.
        id: The deployment's name on the board; empty if it did not come to one.
        folder: Where it is there.
        sent_bytes: How much was sent.
        seconds: How long each step took that was done this time.
        p50_ms: Median latency there, in milliseconds; `None` if it was not measured.
        files: What came back.
        error: Why it failed; `None` if the deployment is current now.
    """

    board: str
    destination: str
    id: str = ""
    folder: str = ""
    sent_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    p50_ms: float | None = None
    files: tuple[Path, ...] = ()
    error: EdgeAttnError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Turn the record into JSON values."""
        error = self.error
        return {
            "board": self.board,
            "destination": self.destination,
            "id": self.id,
            "folder": self.folder,
            "sent_bytes": self.sent_bytes,
            "seconds": self.seconds,
            "p50_ms": self.p50_ms,
            "files": [str(path) for path in self.files],
            "error": {"message": error.message, "hint": error.hint} if error else None,
        }


def deploy(
    destinations: Sequence[str],
    bundle: Path,
    *,
    reach: Reach | None = None,
    wheelhouse: Path | None = None,
    public_key: Path | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    profile_arguments: Sequence[str] = (),
    examine: bool = True,
    output: Path = Path("deployed"),
    notify: Notify = lambda progress: None,
) -> list[Deployment]:
    """Deploy a bundle to boards, all at the same time.

    Args:
        destinations: Addresses: `USER@HOST`, or what ssh's config calls them.
        bundle: The bundle.
        reach: How they are reached.
        wheelhouse: Folder of the packages that boards without a network need.
        public_key: Refuse the bundle, here and on the boards, if it is not signed with its key.
        shapes: Shapes to measure with, by input name; by default those of the bundle.
        profile_arguments: Other options of `edgeattn profile` on the boards.
        examine: Run the doctor on each board first; its errors end the deployment there.
        output: Where the boards' manifests, reports and logs go, each into a folder of its name.
        notify: Called as the boards proceed, from several threads.

    Returns:
        What became of each, in the order given; one board's failure is its own.

    Raises:
        ArtifactError: If the bundle is refused, or a file cannot be read or written.
        DeployError: If a board cannot be reached: none is changed then.
        TargetError: If the bundle is not for one of the boards.
    """
    with Bundle.open(bundle, public_key) as opened:  # what a board would refuse is refused here
        sizes = measured_shapes(opened) if shapes is None else shapes
        recipe = Recipe.from_dict(opened.manifest.build, str(bundle))
    texts = [f"{name}:{'x'.join(map(str, shape))}" for name, shape in sizes.items()]
    arguments = [*profile_arguments, *(word for text in texts for word in ("--shapes", text))]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeattn-")))
        wheel = folder / wheel_name()
        write_bytes(wheel, pack_wheel())
        shipment = make_shipment(bundle, wheel, wheelhouse=wheelhouse, public_key=public_key)
        boards = stack.enter_context(connected(destinations, reach, notify))
        # One after the other: a passphrase may be asked for.
        plans = []
        for connection, board in boards:
            _make_folder(output / connection.name)
            notify(BoardProgress(connection.name, "connect"))
            facts = board.look()
            check_board(recipe, facts, connection.name)
            plans.append(make_plan(shipment, facts, arguments, examine=examine))
        pieces = [piece for pieces in shipment.pieces.values() for piece in pieces]
        with ThreadPoolExecutor(len(boards)) as pool:
            futures = [
                pool.submit(_deploy_one, *board, plan, pieces, output / board[0].name, notify)
                for board, plan in zip(boards, plans, strict=True)
            ]
            try:
                return [future.result() for future in futures]
            except BaseException:  # Ctrl-C: the boards go on, but nobody waits for them
                for _, board in boards:
                    board.give_up()
                raise


@contextlib.contextmanager
def connected(
    destinations: Sequence[str], reach: Reach | None = None, notify: Notify = lambda progress: None
) -> Iterator[list[tuple[Connection, RemoteBoard]]]:
    """Give each board with its connection, and end the connections.

    Raises:
        DeployError: If an address is none, or two are of the same host.
    """
    reach = reach or Reach()
    with contextlib.ExitStack() as stack:
        boards: list[tuple[Connection, RemoteBoard]] = []
        for destination in destinations:
            connection = stack.enter_context(Connection(destination, reach.ssh_config))
            if connection.name in [known.name for known, _ in boards]:
                raise DeployError(f"the board {connection.name} is given twice", "leave one out")

            def on_retry(text: str, name: str = connection.name) -> None:
                log.warning("%s: %s", name, text)
                notify(BoardProgress(name, "connect", detail=text))

            boards.append(
                (
                    connection,
                    RemoteBoard(
                        connection,
                        reach.folder,
                        reach.python,
                        retry_s=reach.retry_s,
                        on_retry=on_retry,
                    ),
                )
            )
        yield boards


def _make_folder(path: Path) -> None:
    """Make the folder that a board's files come back to, before anything long begins."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ArtifactError(
            f"the folder {path} cannot be made: {err.strerror}", "choose another with -o"
        ) from err
    check_writable(path / REPORT)


def _deploy_one(
    connection: Connection,
    board: RemoteBoard,
    plan: dict[str, Any],
    pieces: list[Piece],
    output: Path,
    notify: Notify,
) -> Deployment:
    """Deploy to one board; what goes wrong is part of what is returned."""
    name, destination = connection.name, connection.destination
    known: dict[str, Any] = {"id": plan["id"], "folder": plan["folder"]}
    try:
        known["sent_bytes"] = board.upload(
            pieces, lambda done, total: notify(BoardProgress(name, "upload", done, total))
        )
        board.start(plan)
        seconds: dict[str, float] = {}
        known["seconds"] = seconds
        end = board.follow(plan["id"], lambda event: _pass_on(name, event, seconds, notify))
        for file in FETCHED:  # of an earlier deployment
            (output / file).unlink(missing_ok=True)
        known["files"] = tuple(board.fetch(plan["id"], FETCHED, output))
        if end["status"] != "done":
            raise DeployError(end["message"], end.get("hint") or f"its logs are in {output}")
        known["p50_ms"] = read_report(output / REPORT).latency.p50_ms
    except EdgeAttnError as err:
        notify(BoardProgress(name, "failed", detail=err.message))
        return Deployment(name, destination, **known, error=err)
    notify(BoardProgress(name, "done"))
    return Deployment(name, destination, **known)


def _pass_on(board: str, event: dict[str, Any], seconds: dict[str, float], notify: Notify) -> None:
    """Turn a board's event into progress."""
    step = event["step"]
    if event["event"] == "done":
        seconds[step] = event["seconds"]
    elif event["event"] == "progress":
        notify(BoardProgress(board, step, event["done"], event["total"], event["what"]))
    elif event["event"] == "line":
        log.debug("%s: %s: %s", board, step, event["line"])
        notify(BoardProgress(board, step, detail=event["line"]))
    elif event["event"] == "begin":
        notify(BoardProgress(board, step))
