"""One board over SSH, with the `ssh` that the user has: config, keys, agent, jumps, known hosts.

One login serves all requests (OpenSSH's ControlMaster), so that a passphrase is asked for, or a
hardware key touched, once. Host keys are checked strictly, whatever the config says.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import IO

from edgeattn.errors import DeployError, MissingDependencyError

_LOST = 255  # what ssh exits with if it is ssh that failed, not the command
_LAST_WORDS_S = 2.0
_LONGEST_SOCKET = 80  # of 104 to 108 bytes; ssh appends 17 while it makes one
_OPTIONS = (
    "StrictHostKeyChecking=yes",
    "ConnectTimeout=15",
    # A board that is gone is noticed after 45 s.
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    # What a config may ask for when people log in.
    "RequestTTY=no",
    "RemoteCommand=none",
    "PermitLocalCommand=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "LogLevel=ERROR",
)


class ConnectionLostError(DeployError):
    """A connection that ended before its command did."""


class Connection:
    """A board's address, and the login that is shared by what is run there.

    Args:
        destination: `USER@HOST`, a host of the user's config, or `ssh://USER@HOST:PORT`.
        config: A config of ssh to use in place of the user's own.

    Raises:
        DeployError: If it is no address.
        MissingDependencyError: If there is no `ssh` here.
    """

    def __init__(self, destination: str, config: Path | None = None) -> None:
        if not re.fullmatch(r"[^\s-]\S*", destination):
            raise DeployError(
                f"{destination!r} is no address of a board",
                "expected USER@HOST, or a host of your ~/.ssh/config",
            )
        if shutil.which("ssh") is None:
            raise MissingDependencyError("there is no ssh here", "apt install openssh-client")
        self.destination = destination
        self._config = ["-F", str(config)] if config else []
        self._sockets = tempfile.TemporaryDirectory(prefix="edgeattn-")
        try:
            self._shared = self._share()
        except DeployError:
            self._sockets.cleanup()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The host's name, fit for a file."""
        host = re.sub(r"^ssh://", "", self.destination).rpartition("@")[2]
        return re.sub(r"[^\w.-]+", "-", host).strip("-.") or "board"

    def start(self, command: str) -> Remote:
        """Run a shell command on the board."""
        options = [part for option in _OPTIONS for part in ("-o", option)]
        words = ["ssh", *self._config, *options, *self._shared, "--", self.destination, command]
        return Remote(self.destination, words)

    def close(self) -> None:
        """End the shared login, if it is ours."""
        if self._shared:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    ["ssh", *self._config, *self._shared, "-O", "exit", "--", self.destination],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=10,
                    check=False,
                )
        self._sockets.cleanup()

    def _share(self) -> list[str]:
        """Give the options of a login that is shared, unless the user's config shares one."""
        done = subprocess.run(
            ["ssh", *self._config, "-G", "--", self.destination],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["ssh says nothing"]
            raise DeployError(
                f"ssh cannot read its config for {self.destination}: {lines[-1]}",
                "the file is ~/.ssh/config, or what --ssh-config names",
            )
        settings = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
        socket = Path(self._sockets.name) / "login"
        is_users_own = settings.get("controlmaster", "false") not in ("false", "no")
        if is_users_own or len(str(socket)) > _LONGEST_SOCKET:
            return []
        return [
            *("-o", "ControlMaster=auto"),
            *("-o", f"ControlPath={socket}"),
            *("-o", "ControlPersist=60"),
        ]


class Remote:
    """A command that runs on a board.

    Args:
        destination: The board, for messages.
        words: What runs here: ssh with its arguments.

    Attributes:
        stdin: What the command reads.
        stdout: What it writes; who reads it closes it.
    """

    def __init__(self, destination: str, words: list[str]) -> None:
        self._destination = destination
        self._child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._child.stdin
        assert self._child.stdout
        self.stdin: IO[bytes] = self._child.stdin
        self.stdout: IO[bytes] = self._child.stdout
        self._said: deque[str] = deque(maxlen=40)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def failure(self) -> DeployError:
        """Tell why the command ended without an answer."""
        code = self._end()
        lines = list(self._said)
        if code == _LOST or code < 0:
            return explain(self._destination, "\n".join(lines))
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        if code in (126, 127):
            return DeployError(
                f"there is no such Python on {self._destination}: {last}",
                "install python3 there, or name one with --python",
            )
        if code == 0 or "BrokenPipe" in last:
            return ConnectionLostError(f"the connection to {self._destination} ended")
        return DeployError(
            f"the board's side failed on {self._destination} with exit code {code}: {last}"
        )

    def close(self) -> None:
        """Wait for the end; a command that goes on is left to itself."""
        self._end()

    def abort(self) -> None:
        """End the connection at once."""
        self._child.kill()

    def _end(self) -> int:
        with contextlib.suppress(OSError):
            self.stdin.close()
        try:
            code = self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        self._listener.join(timeout=_LAST_WORDS_S)
        return code

    def _listen(self) -> None:
        assert self._child.stderr
        with self._child.stderr as stream:
            for line in stream:
                self._said.append(line.decode(errors="replace").rstrip())


def explain(destination: str, said: str) -> DeployError:
    """Turn what ssh said into one sentence and a hint.

    References:
        The messages are those of OpenSSH 7.6 to 10: sshconnect.c, sshconnect2.c, ssh.c, packet.c.
    """
    for pattern, message, hint in _FAILURES:
        if found := re.search(pattern, said, re.IGNORECASE):
            old = _OLD_KEY.search(said)
            where = f"line {old['line']} of {old['file']}" if old else "its old key"
            words = {"board": destination, "where": where, **found.groupdict()}
            return DeployError(message.format(**words), hint.format(**words))
    if found := _NO_ANSWER.search(said):
        return ConnectionLostError(
            f"{destination} does not answer: {found[0].lower()}",
            "is the board on, and its address right? its server: sudo systemctl enable --now ssh",
        )
    lines = [line for line in said.splitlines() if line.strip()]
    told = f": {lines[-1].strip()}" if lines else ""
    return ConnectionLostError(f"the connection to {destination} was lost{told}")


_NO_ANSWER = re.compile(
    r"connection refused|connection timed out|operation timed out|no route to host|"
    r"network is unreachable|host is down",
    re.IGNORECASE,
)
_OLD_KEY = re.compile(r"Offending .*key in (?P<file>.+):(?P<line>\d+)")
_FAILURES = (
    (
        r"remote host identification has changed|host key for .* has changed",
        "the host key of {board} is another one than the one that is known: it was flashed anew, "
        "or something else answers in its place",
        "if it was flashed anew, remove {where}, log in once with ssh {board}, and compare the "
        "fingerprint",
    ),
    (
        r"revoked host key|host key .* (?:was )?revoked|marked as revoked",
        "the host key of {board} is revoked",
        "ask whoever revoked it",
    ),
    (
        r"no .* host key is known for|host key verification failed",
        "the host key of {board} is not known",
        "log in once with ssh {board}, and compare the fingerprint that it shows with the board's",
    ),
    (
        r"permission denied \((?P<ways>[^)]*)\)",
        "{board} accepts no login of yours; it offers {ways}",
        "try ssh {board}; ssh-copy-id {board} puts your key there",
    ),
    (
        r"too many authentication failures",
        "{board} refuses to try more of your keys",
        "name the right one in ~/.ssh/config: IdentityFile and IdentitiesOnly yes",
    ),
    (
        r"could not resolve hostname (?P<name>[^:]+)",
        "there is no host {name}",
        "check the name, or give the board's address",
    ),
    (
        r"bad configuration option: (?P<option>\S+)",
        "ssh does not know the option {option} of its config",
        "remove it from the config",
    ),
)
