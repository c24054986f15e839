import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from edgeattn.sweep.process import run_task
from tests.edgeattn.profiling.board.boards import write

CASE = {"id": "a", "parameters": {}, "parents": {}, "files": {}}


def test_a_task_that_fails_gives_its_error_and_logs_its_traceback(tmp_path):
    log = tmp_path / "logs" / "a.log"
    answer = run_task({"name": "prepare", "case": CASE, "graphs_folder": str(tmp_path)}, log)
    assert answer["error"]["kind"] == "KeyError"
    assert answer["error"]["is_bug"]
    assert "Traceback" in log.read_text()


def test_a_process_that_dies_is_an_error_with_its_last_words(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, os, signal\n"
        "if 'edgeattn.sweep.process' in ' '.join(sys.orig_argv):\n"
        "    sys.stderr.write('step: build\\nno tactic\\n'); sys.stderr.flush()\n"
        "    os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    error = run_task({"name": "prepare", "case": CASE}, tmp_path / "a.log")["error"]
    assert "killed by SIGSEGV" in error["message"]
    assert error["step"] == "build"
    assert "no tactic" in error["log"]


def test_the_last_words_are_of_this_child_and_of_none_before_it(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'edgeattn.sweep.process' in ' '.join(sys.orig_argv):\n    os._exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log = tmp_path / "a.log"
    log.write_text("step: profile\nof an earlier child\n")
    error = run_task({"name": "prepare", "case": CASE}, log)["error"]
    assert "ended with exit code 3 and no answer" in error["message"]
    assert (error["step"], error["log"]) == ("", "")


def test_a_task_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if 'edgeattn.sweep.process' in ' '.join(sys.orig_argv):\n"
        "    time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begin = time.monotonic()
    error = run_task({"name": "prepare", "case": CASE}, tmp_path / "a.log", timeout_s=0.5)["error"]
    assert error["message"] == "the case took longer than 0.5 s"
    assert time.monotonic() - begin < 30


def test_no_child_outlives_a_parent_that_is_killed_nor_leaves_clocks_locked(tmp_path, monkeypatch):
    governor = tmp_path / "root/sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    known = {governor.name: "powersave", "scaling_available_governors": "performance powersave"}
    write(governor.parent, known)
    monkeypatch.setenv("PATH", "")  # no tool of a board or a graphics card
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "from edgeattn.profiling.board.clocks import lock_clocks\n"
        "os.geteuid = lambda: 0\n"
        "def model():\n"
        "    with lock_clocks(Path('root'), Path('state')):\n"
        "        Path('pid').write_text(str(os.getpid()))\n"
        "        time.sleep(60)\n"
    )
    parameters = {
        "inputs": [["x", [1, 2]]],
        "source": "slow:model",
        "model": "slow",
        "dynamic": True,
        "precision": "fp32",
    }
    task = {"name": "prepare", "case": CASE | {"parameters": parameters}, "graphs_folder": "g"}
    code = (
        "from pathlib import Path; from edgeattn.sweep.process import run_task\n"
        f"run_task({task!r}, Path('a.log'))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    pid = tmp_path / "pid"
    wait_for(lambda: pid.exists() and pid.read_text())
    assert governor.read_text() == "performance"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not is_running(int(pid.read_text())), seconds=30)  # of the 60 that it may
    assert governor.read_text() == "powersave"


def is_running(pid):
    try:
        os.kill(pid, 0)
        # A zombie whose new parent has not looked at it yet runs no more.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
