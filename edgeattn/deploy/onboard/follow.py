"""Tell how a deployment goes, from any place of its events on."""

from __future__ import annotations

import json
import time

from edgeattn.deploy.onboard.folder import Folder
from edgeattn.deploy.onboard.talk import say
from edgeattn.deploy.onboard.work import EVENTS

_PAUSE_S = 0.1
_BEAT_S = 10.0


def follow(folder: Folder, name: str, offset: int) -> dict[str, object]:
    """Pass on a deployment's events until its end.

    Args:
        folder: The board's folder.
        name: The deployment.
        offset: Bytes of its events that are known already.

    Returns:
        Its last event; one of our own if its process died without a word.
    """
    path = folder.deployment(name) / EVENTS
    last_said = time.monotonic()
    while True:
        is_running = (folder.busy() or {}).get("work") == name  # before the look, not after it
        if path.stat().st_size < offset:  # somebody began it anew
            offset = 0
        with path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines(keepends=True):
            offset += len(line)
            event = json.loads(line)
            if event["event"] == "end":
                return dict(event)
            say(offset=offset, **event)
            last_said = time.monotonic()
        if not is_running and not whole:
            return {
                "event": "end",
                "status": "failed",
                "step": "",
                "message": "the deployment's process on the board ended without a word",
                "hint": "the board was restarted, or its memory ran out; deploy again to go on",
            }
        if time.monotonic() - last_said > _BEAT_S:
            say(event="beat", offset=offset)
            last_said = time.monotonic()
        time.sleep(_PAUSE_S)
