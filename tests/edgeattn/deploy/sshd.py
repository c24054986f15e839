"""OpenSSH's real server on this machine, as boards: ports, keys and homes of their own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or "sshd"  # by its whole path


class Board:
    """A server that plays a board.

    Args:
        folder: Where its files are; `home` in it is the user's.
        name: What the client's config calls it.

    Attributes:
        name: The same.
        home: The user's home there.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        # Both are what a person keeps there; nothing of it is ours to touch.
        (self.home / ".ssh").mkdir()
        (self.home / "notes.txt").write_text("mine")
        self._see_the_packages_of_this_machine()
        self.new_host_key()
        self.client_key = self._key("client")
        self.port = _free_port()
        shell = folder / "shell"
        python = Path(sys.base_prefix) / "bin"
        shell.write_text(
            # Login scripts print; what they print is no answer.
            f"#!/bin/sh\necho Welcome to {name}\n"
            f"export HOME='{self.home}' PATH='{python}:/usr/bin:/bin'\ncd \"$HOME\"\n"
            'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        shell.chmod(0o755)
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/client.pub\nStrictModes no\nUsePAM no\n"
            f"PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            f"ForceCommand {shell}\nMaxStartups 100\n"
        )
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        """The deployment folder."""
        return self.home / "edgeattn-deployed"

    @property
    def config(self) -> str:
        """The client's config for it."""
        return (
            f"Host {self.name}\n  HostName 127.0.0.1\n  Port {self.port}\n"
            f"  User {getpass.getuser()}\n  IdentityFile {self.client_key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self._folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
            # Forced on again by the toolkit, whatever stands here.
            "  StrictHostKeyChecking no\n  RemoteCommand tmux\n  RequestTTY force\n"
        )

    def new_host_key(self) -> None:
        """Flash the board anew: another host key, which nobody knows."""
        (self._folder / "host").unlink(missing_ok=True)
        self._key("host")

    def be_known(self) -> None:
        """Have the client know the host key."""
        key = (self._folder / "host.pub").read_text()
        (self._folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")

    def be_unknown(self) -> None:
        """Have the client know no host key."""
        (self._folder / "known_hosts").write_text("")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if os.geteuid() == 0:  # where a server of root keeps its unprivileged half
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (self._folder / "sshd.log").open("ab") as log:
            self._server = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(self._folder / "sshd_config")], stdout=log, stderr=log
            )
        end = time.monotonic() + 10
        while time.monotonic() < end and self._server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        raise RuntimeError((self._folder / "sshd.log").read_text())

    def stop(self) -> None:
        """Stop the server, and the sessions with it."""
        if self._server is not None:
            sessions = self.sessions()
            self._server.kill()
            self._server.wait()
            for pid in sessions:
                _kill(pid)
            self._server = None

    def sessions(self) -> list[int]:
        """List the server's processes that each serve one login."""
        assert self._server is not None
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[1]) == self._server.pid:
                    found.append(int(stat.parent.name))
        return found

    def cut(self) -> int:
        """Cut every connection: kill what serves it. Gives how many there were."""
        sessions = self.sessions()
        for pid in sessions:
            _kill(pid)
        return len(sessions)

    def listing(self) -> dict[str, tuple[int, int]]:
        """List size and time of everything in the home but the deployment folder."""
        found = {}
        for path in self.home.rglob("*"):
            if self.root not in (path, *path.parents):
                stat = path.lstat()
                found[str(path.relative_to(self.home))] = (stat.st_size, stat.st_mtime_ns)
        return found

    def _key(self, name: str) -> Path:
        path = self._folder / name
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)],
            check=True,
            input=b"y\n",
        )
        return path

    def _see_the_packages_of_this_machine(self) -> None:
        """Have the board's own Python see numpy and the rest, as JetPack's sees its packages.

        An environment sees them too, but only if it is made with `--system-site-packages`.
        """
        here = next(path for path in sys.path if (Path(path) / "numpy").is_dir())
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = self.home / ".local" / "lib" / version / "site-packages"
        site.mkdir(parents=True)
        (site / "board.pth").write_text(f"{here}\n")


@contextlib.contextmanager
def boards(folder: Path, *names: str) -> Iterator[tuple[list[Board], Path]]:
    """Give boards that run and are known, and the client's config for all of them."""
    made = [Board(folder / name, name) for name in names]
    config = folder / "ssh_config"
    config.write_text("".join(board.config for board in made))
    try:
        for board in made:
            board.be_known()
            board.start()
        yield made, config
    finally:
        for board in made:
            board.stop()


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
