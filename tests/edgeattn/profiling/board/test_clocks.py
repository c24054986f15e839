"""Clocks are locked for a block and stand afterwards as before, whatever happens in between.

`jetson_clocks` and `nvidia-smi` are played by shell scripts that write down how they were called.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeattn.errors import BoardError
from edgeattn.profiling.board.clocks import lock_clocks, restore_clocks
from tests.edgeattn.profiling.board.boards import program, write

CPUFREQ = "sys/devices/system/cpu/cpufreq"
KNOWN = "performance schedutil"

JETSON_CLOCKS = """
echo "jetson_clocks $*" >> {log}
case "$1" in
  --store) [ ! -e "$2" ] && cp {state} "$2" ;;
  --restore) cp "$2" {state} ;;
  "") echo locked > {state} ;;
esac
"""


@pytest.fixture(autouse=True)
def _root_with_our_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def desktop(tmp_path: Path) -> Path:
    return write(
        tmp_path / "root",
        {
            f"{CPUFREQ}/policy0/scaling_governor": "schedutil",
            f"{CPUFREQ}/policy0/scaling_available_governors": KNOWN,
            f"{CPUFREQ}/policy4/scaling_governor": "powersave",
            f"{CPUFREQ}/policy4/scaling_available_governors": KNOWN,
            f"{CPUFREQ}/policy8/scaling_governor": "userspace",
            f"{CPUFREQ}/policy8/scaling_available_governors": "userspace",
        },
    )


def governors(root: Path) -> list[str]:
    files = sorted((root / CPUFREQ).glob("policy*/scaling_governor"))
    return [file.read_text().strip() for file in files]


def jetson(tmp_path: Path) -> tuple[Path, Path]:
    state, log = tmp_path / "clocks", tmp_path / "log"
    state.write_text("dynamic\n")
    program(tmp_path / "bin", "jetson_clocks", JETSON_CLOCKS.format(state=state, log=log))
    return state, log


def test_governors_are_locked_and_restored(tmp_path: Path) -> None:
    root = desktop(tmp_path)
    with lock_clocks(root, tmp_path / "state") as locked:
        assert governors(root) == ["performance", "performance", "userspace"]
        assert locked == (
            "processors of policy0 with the governor performance",
            "processors of policy4 with the governor performance",
        )
    assert governors(root) == ["schedutil", "powersave", "userspace"]


def test_an_exception_restores_too(tmp_path: Path) -> None:
    root = desktop(tmp_path)
    with pytest.raises(KeyboardInterrupt), lock_clocks(root, tmp_path / "state"):
        raise KeyboardInterrupt
    assert governors(root) == ["schedutil", "powersave", "userspace"]


def test_a_jetson_is_locked_and_restored_by_its_own_tool(tmp_path: Path) -> None:
    state, log = jetson(tmp_path)
    for _ in range(2):  # the second store finds no file of the first
        with lock_clocks(desktop(tmp_path), tmp_path / "state") as locked:
            assert state.read_text() == "locked\n"
        assert locked == ("the board by jetson_clocks",)
        assert state.read_text() == "dynamic\n"
    stored = tmp_path / "state" / "jetson_clocks.conf"
    once = [f"--store {stored}", "", f"--restore {stored}"]
    assert log.read_text().splitlines() == [f"jetson_clocks {call}" for call in once * 2]


def test_a_jetson_without_its_tool_is_locked_by_files(tmp_path: Path) -> None:
    gpu = "sys/class/devfreq/17000000.gpu"
    root = write(tmp_path, {f"{gpu}/min_freq": 306000000, f"{gpu}/max_freq": 1020000000})
    with lock_clocks(root, tmp_path / "state") as locked:
        assert (root / gpu / "min_freq").read_text() == "1020000000"
        assert locked == ("17000000.gpu at 1020 MHz",)
    assert (root / gpu / "min_freq").read_text() == "306000000"


def test_graphics_cards_are_locked_at_their_base_clock(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program(tmp_path / "bin", "nvidia-smi", f'echo "$*" >> {log}')
    with lock_clocks(tmp_path / "root", tmp_path / "state") as locked:
        assert log.read_text() == "--lock-gpu-clocks=tdp,tdp\n"
        assert locked == ("the graphics cards at their base clock",)
    assert log.read_text().splitlines()[1:] == ["--reset-gpu-clocks"]


CRASH = """
import os, signal, sys, time
from pathlib import Path
from edgeattn.profiling.board.clocks import lock_clocks
with lock_clocks(Path(sys.argv[1]), Path(sys.argv[2])):
    print("locked", flush=True)
    {end}
"""

# A signal that comes just before a sleep is handled after it: the sleeps are short.
WAIT = "while True: time.sleep(0.01)"


@contextlib.contextmanager
def run_locked(root: Path, state: Path, end: str) -> Iterator[subprocess.Popen[str]]:
    """Lock clocks in a process of its own, as root in its own eyes, and wait until they are."""
    code = "import os; os.geteuid = lambda: 0\n" + CRASH.format(end=end)
    command = [sys.executable, "-c", code, str(root), str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()  # one that does not end would be waited for without an end


def test_what_a_crash_left_is_restored_by_the_next(tmp_path: Path) -> None:
    root, state = desktop(tmp_path), tmp_path / "state"
    with run_locked(root, state, "os.kill(os.getpid(), 9)") as process:
        process.wait()
    assert governors(root) == ["performance", "performance", "userspace"]
    with lock_clocks(root, state):
        pass
    assert governors(root) == ["schedutil", "powersave", "userspace"]


def test_what_a_crash_left_is_restored_on_demand(tmp_path: Path) -> None:
    root, state = desktop(tmp_path), tmp_path / "state"
    assert restore_clocks(state) is False
    with run_locked(root, state, "os.kill(os.getpid(), 9)") as process:
        process.wait()
    assert restore_clocks(state) is True
    assert governors(root) == ["schedutil", "powersave", "userspace"]
    assert restore_clocks(state) is False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_restores_before_the_process_ends(tmp_path: Path, number: int) -> None:
    root, state = desktop(tmp_path), tmp_path / "state"
    with run_locked(root, state, WAIT) as process:
        process.send_signal(number)
        assert process.wait(timeout=20) in (128 + number, -number)
    assert governors(root) == ["schedutil", "powersave", "userspace"]


def test_a_terminal_that_is_closed_ends_nothing_under_nohup(tmp_path: Path) -> None:
    root = desktop(tmp_path)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with lock_clocks(root, tmp_path / "state"):
            os.kill(os.getpid(), signal.SIGHUP)
            assert governors(root) == ["performance", "performance", "userspace"]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_process_waits_for_its_turn(tmp_path: Path) -> None:
    root, state = desktop(tmp_path), tmp_path / "state"
    with run_locked(root, state, WAIT) as process:
        with pytest.raises(BoardError, match="another process has the clocks locked"):
            lock_clocks(root, state).__enter__()
        with pytest.raises(BoardError, match="another process"):
            restore_clocks(state)
        assert governors(root) == ["performance", "performance", "userspace"]
        process.terminate()
        process.wait(timeout=20)
    assert governors(root) == ["schedutil", "powersave", "userspace"]


def test_other_users_are_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    message = "locking clocks needs root; this process runs as user 1000"
    with pytest.raises(BoardError, match=message) as caught:
        lock_clocks(desktop(tmp_path), tmp_path / "state").__enter__()
    assert "sudo" in caught.value.hint
    assert not (tmp_path / "state").exists()


def test_a_machine_without_clocks_to_lock_says_so(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="no clock that can be locked"):
        lock_clocks(tmp_path / "root", tmp_path / "state").__enter__()


def test_a_setting_that_is_refused_undoes_the_ones_before(tmp_path: Path) -> None:
    root, log = desktop(tmp_path), tmp_path / "log"
    script = f'echo "$*" >> {log}\n[ "$1" = --reset-gpu-clocks ] || {{ echo No; exit 4; }}'
    program(tmp_path / "bin", "nvidia-smi", script)
    with pytest.raises(BoardError, match=r"--lock-gpu-clocks=tdp,tdp` failed: No"):
        lock_clocks(root, tmp_path / "state").__enter__()
    assert log.read_text().splitlines()[1:] == ["--reset-gpu-clocks"]
    assert governors(root) == ["schedutil", "powersave", "userspace"]


def test_a_store_that_writes_nothing_locks_nothing(tmp_path: Path) -> None:
    program(tmp_path / "bin", "jetson_clocks", "exit 0")
    with pytest.raises(BoardError, match="wrote no file"):
        lock_clocks(tmp_path / "root", tmp_path / "state").__enter__()


def test_what_cannot_be_restored_is_kept_for_the_next_try(tmp_path: Path) -> None:
    root, state = desktop(tmp_path), tmp_path / "state"
    lost = root / CPUFREQ / "policy4"
    with (
        pytest.raises(BoardError, match="could not be restored") as caught,
        lock_clocks(root, state),
    ):
        lost.rename(root / "elsewhere")
    assert "reboot" in caught.value.hint
    assert governors(root) == ["schedutil", "userspace"]
    (root / "elsewhere").rename(lost)
    assert restore_clocks(state) is True
    assert governors(root) == ["schedutil", "powersave", "userspace"]


def test_a_record_that_a_crash_cut_off_is_passed_over(tmp_path: Path) -> None:
    root, state = desktop(tmp_path), tmp_path / "state"
    state.mkdir()
    (state / "clocks.json").write_text('[{"path"')
    with lock_clocks(root, state):
        assert governors(root)[0] == "performance"
    assert governors(root)[0] == "schedutil"
