"""A board's deployment folder, from here: a connection that is lost is made again."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgeattn.artifacts import write_bytes
from edgeattn.deploy.conversation import Conversation, Message
from edgeattn.deploy.pieces import Piece
from edgeattn.deploy.ssh import Connection, ConnectionLostError
from edgeattn.errors import DeployError

# How long to wait before each new try; a board that restarts takes a minute or two.
RETRY_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 30.0, 30.0)
_T = TypeVar("_T")


class RemoteBoard:
    """A board's deployment folder.

    Args:
        connection: How the board is reached.
        folder: Its deployment folder.
        python: Its Python.
        retry_s: Waits before new tries, in seconds; empty to give up at once.
        on_retry: Called with what went wrong before each new try.

    Raises:
        DeployError: From each method: the board refuses, or cannot be reached for good.
    """

    def __init__(
        self,
        connection: Connection,
        folder: str,
        python: str = "python3",
        *,
        retry_s: Sequence[float] = RETRY_S,
        on_retry: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._connection = connection
        self._folder = folder
        self._python = python
        self._retry_s = retry_s
        self._on_retry = on_retry
        self._given_up = threading.Event()
        self._talk: Conversation | None = None

    def look(self) -> Message:
        """Tell what the board is, see `onboard.facts`; the first contact, tried once."""
        with self._ask("look") as talk:
            return talk.answer()

    def status(self) -> Message:
        """List what is deployed: `folder`, `deployments`, and `busy` with whom, if so."""
        with self._ask("status") as talk:
            return talk.answer()

    def upload(
        self, pieces: Sequence[Piece], progress: Callable[[int, int], None] = lambda done, of: None
    ) -> int:
        """Send the pieces that are not there, and the rest of those that are there in part.

        Args:
            pieces: What the board should have.
            progress: Called with the bytes that are there, of all.

        Returns:
            How many bytes were sent.
        """
        unique = list({piece.sha256: piece for piece in pieces}.values())
        total = sum(piece.size for piece in unique)
        sent = 0

        def attempt() -> None:
            nonlocal sent
            with self._ask("receive", pieces=[[p.sha256, p.size] for p in unique]) as talk:
                held = talk.next()["offsets"]
                done = sum(held)
                progress(done, total)
                for piece, offset in zip(unique, held, strict=True):
                    for chunk in piece.read(offset):
                        talk.send(chunk)
                        sent += len(chunk)
                        done += len(chunk)
                        progress(done, total)
                talk.answer()

        self._persist(attempt)
        return sent

    def start(self, plan: Mapping[str, Any]) -> None:
        """Begin a deployment, or go on with it. It runs by itself from then on."""

        def attempt() -> None:
            with self._ask("start", plan=plan) as talk:
                talk.answer()

        self._persist(attempt)

    def follow(self, name: str, on_event: Callable[[Message], None]) -> Message:
        """Watch a deployment until it ends.

        Args:
            name: The deployment.
            on_event: Called with each event, once.

        Returns:
            The last event: `status` is `done`, or `failed` with `message`, `hint` and `step`.
        """
        offset = 0

        def attempt() -> Message:
            nonlocal offset
            with self._ask("follow", name=name, offset=offset) as talk:
                for message in talk:
                    if "answer" in message:
                        break
                    offset = message["offset"]
                    if message["event"] != "beat":
                        on_event(message)
                return dict(message["answer"])

        return self._persist(attempt)

    def fetch(self, name: str, files: Sequence[str], folder: Path) -> list[Path]:
        """Bring files of a deployment here; those that it does not have are left out.

        Raises:
            ArtifactError: If one cannot be written.
        """

        def attempt() -> tuple[dict[str, bytearray], dict[str, str]]:
            contents: dict[str, bytearray] = {}
            with self._ask("fetch", name=name, files=list(files)) as talk:
                for message in talk:
                    if "file" in message:
                        contents[message["file"]] = current = bytearray()
                    elif "data" in message:
                        current += base64.b64decode(message["data"])
                return contents, message["answer"]["files"]

        contents, hashes = self._persist(attempt)
        for file, data in contents.items():
            if file not in files or hashlib.sha256(data).hexdigest() != hashes.get(file):
                raise DeployError(f"{file} did not arrive as it is on the board", "fetch it again")
            write_bytes(folder / file, bytes(data))
        return [folder / file for file in contents]

    def roll_back(self) -> Message:
        """Make the previous deployment current: `before` and `current` are their names."""
        with self._ask("rollback") as talk:
            return talk.answer()

    def cancel(self) -> str:
        """Stop the deployment that runs; gives its name, empty if none does."""
        with self._ask("cancel") as talk:
            return str(talk.answer()["cancelled"])

    def examine(self, source: bytes, *, selftest: bool) -> Message:
        """Run the doctor there: that of the current deployment, else one of the source sent.

        Args:
            source: edgeattn as a zip file.
            selftest: Run the self-test too, which needs a deployment.

        Returns:
            `deployed`, which of the two, and the `examination`.
        """
        with self._ask("examine", size=len(source), selftest=selftest) as talk:
            talk.send(source)
            return talk.answer()

    def give_up(self) -> None:
        """Have other threads stop to talk to the board, which goes on by itself."""
        self._given_up.set()
        if self._talk is not None:
            self._talk.abort()

    def _ask(self, ask: str, **arguments: Any) -> Conversation:
        request = {"ask": ask, "folder": self._folder, **arguments}
        self._talk = Conversation(self._connection, self._python, request)
        return self._talk

    def _persist(self, attempt: Callable[[], _T]) -> _T:
        """Try again after a lost connection, but not for ever."""
        for wait_s in self._retry_s:
            try:
                return attempt()
            except ConnectionLostError as err:
                if self._given_up.is_set():
                    raise
                self._on_retry(f"{err.message}; trying again in {wait_s:g} s")
                self._given_up.wait(wait_s)
        try:
            return attempt()
        except ConnectionLostError as err:
            raise DeployError(
                err.message, "the same command goes on where this one was; so does the board"
            ) from err
