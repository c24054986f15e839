"""One request to a board, and what the board says to it."""

from __future__ import annotations

import json
import queue
import shlex
import threading
from collections.abc import Iterator
from typing import Any

from edgeattn.deploy.onboard.talk import read_message
from edgeattn.deploy.program import bootstrap, program
from edgeattn.deploy.ssh import Connection
from edgeattn.errors import DeployError

Message = dict[str, Any]
_LAST_WORDS_S = 2.0


class Conversation:
    """A request that is being answered.

    Args:
        connection: The board.
        python: Its Python.
        request: What is asked, and its arguments.

    Raises:
        DeployError: From each method, if the board refuses; `ConnectionLostError` if it ends
            without an answer.
    """

    def __init__(self, connection: Connection, python: str, request: Message) -> None:
        source = program()
        self._messages: queue.Queue[Message | None] = queue.Queue()
        self._remote = connection.start(
            f"{shlex.quote(python)} -I -c '{bootstrap(len(source))}'",
        )
        # All the time, or the board would wait for us to read while we wait for it to.
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.send(source)
        self.send(json.dumps(request).encode() + b"\n")

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._remote.close()
        self._listener.join(timeout=_LAST_WORDS_S)

    def abort(self) -> None:
        """End it at once, from another thread; who waits for an answer gets none."""
        self._remote.abort()

    def send(self, data: bytes) -> None:
        """Send bytes that belong to the request."""
        try:
            self._remote.stdin.write(data)
            self._remote.stdin.flush()
        except (OSError, ValueError):  # it stopped to read: because of what it said, or a cut
            for _ in self:
                pass

    def next(self) -> Message:
        """Wait for what the board says next."""
        message = self._messages.get()
        if message is None:
            raise self._remote.failure()
        if "refusal" in message:
            raise DeployError(message["refusal"], message.get("hint", ""))
        return message

    def __iter__(self) -> Iterator[Message]:
        """Give what the board says; the answer is the last."""
        while "answer" not in (message := self.next()):
            yield message
        yield message

    def answer(self) -> Message:
        """Wait for the answer."""
        return dict(list(self)[-1]["answer"])

    def _listen(self) -> None:
        with self._remote.stdout as stream:
            for line in stream:
                message = read_message(line.decode(errors="replace"))
                if message is not None:
                    self._messages.put(message)
        self._messages.put(None)
