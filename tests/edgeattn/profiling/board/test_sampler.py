"""The recorder beside a run: it sees the run, survives what may happen, and leaves nothing behind.

tegrastats and nvpmodel are played by shell scripts, which print what boards printed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import pytest

from edgeattn.errors import DataError
from edgeattn.profiling.board.energy import energy_per_query
from edgeattn.profiling.board.sampler import BoardSampler
from edgeattn.profiling.board.verdict import verdict
from tests.edgeattn.profiling.board.boards import orin_nano, program, write

LINES = Path(__file__).parents[3] / "fixtures/boards/tegrastats/lines.json"
LINE = next(c["line"] for c in json.loads(LINES.read_text()) if c["name"] == "orin-nano-6")


@pytest.fixture(autouse=True)
def _only_our_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's own tools and look for leftovers in a folder of our own."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)


def recorder_of(sampler: BoardSampler) -> int:
    assert sampler._process is not None
    return sampler._process.pid


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline, "the recorder goes on"
        time.sleep(0.02)


def test_this_machine_is_sampled_at_the_rate_and_within_the_run() -> None:
    with BoardSampler(hz=50) as sampler:
        start = time.perf_counter_ns()
        time.sleep(0.5)
        end = time.perf_counter_ns()
    trace = sampler.stop()
    assert (trace.source, trace.period_s, trace.problem) in [
        ("cpu", 0.02, ""),
        ("sysfs", 0.02, ""),
        ("nvml", 0.02, ""),
        ("tegrastats", 0.02, ""),
    ]
    times = [sample.time_ns for sample in trace.samples]
    assert all(before < after for before, after in pairwise(times))
    assert times[0] <= start  # it covers the run from before
    assert times[-1] >= end
    assert 5 <= len(trace.window(start, end)) <= 28
    assert any(sample.memory_used_bytes for sample in trace.samples)


def test_a_boards_files_become_a_trace_with_energy_and_verdict(tmp_path: Path) -> None:
    root = orin_nano(tmp_path / "root")
    program(tmp_path / "bin", "nvpmodel", "echo 'NV Power Mode: MAXN_SUPER'; echo 2")
    with BoardSampler(hz=100, root=root) as sampler:
        start = time.perf_counter_ns()
        time.sleep(0.3)
        middle = time.perf_counter_ns()
        write(root, {"sys/class/hwmon/hwmon1/curr1_input": 3000})
        write(root, {"sys/class/hwmon/hwmon3/oc3_event_cnt": 40})
        time.sleep(0.3)
        end = time.perf_counter_ns()
    trace = sampler.stop()
    assert (trace.source, trace.total_rail, trace.power_mode) == ("sysfs", "VDD_IN", "MAXN_SUPER")
    assert trace.board.startswith("NVIDIA Jetson Orin Nano")
    assert trace.jetson_clocks is False
    assert verdict(trace, start, end).reasons[0].startswith("over-current, seen once")
    assert verdict(trace, start, middle - 10**8).word == "stable"
    found = energy_per_query(trace, start, end, 10)
    assert found is not None
    assert 4984 * 1.9 < found.busy_mw < 4984 * 3


def test_the_recorder_keeps_out_of_the_way() -> None:
    with BoardSampler() as sampler:
        pid = recorder_of(sampler)
        cpus = os.sched_getaffinity(pid)
        assert len(cpus) == 1
        nice = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16])
        assert nice > os.nice(0)
        assert os.getpgid(pid) != os.getpgid(0)  # Ctrl-C at a terminal is not for it
    wait_until_gone(pid)


def test_tegrastats_is_read_where_sensors_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    script = f"[ \"$1\" = --interval ] || exit 9\nwhile :; do echo '{LINE}'; sleep 0.02; done"
    program(tmp_path / "bin", "tegrastats", script)
    with BoardSampler(hz=100, root=tmp_path / "root") as sampler:
        time.sleep(0.3)
    trace = sampler.stop()
    assert (trace.source, trace.total_rail, trace.problem) == ("tegrastats", "VDD_IN", "")
    assert len(trace.samples) > 3
    assert trace.samples[-1].power_mw["VDD_IN"] == 12479
    assert all(a.time_ns <= b.time_ns for a, b in pairwise(trace.samples))


def test_a_tegrastats_that_ends_is_told(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    program(tmp_path / "bin", "tegrastats", f"echo '{LINE}'; echo '{LINE}'")
    with BoardSampler(root=tmp_path / "root") as sampler:
        wait_until_gone(recorder_of(sampler))
    trace = sampler.stop()
    assert len(trace.samples) == 2
    assert trace.problem == "the sampler ended early: tegrastats ended by itself"


PLAYED_CARD = """
class NVMLError(Exception):
    pass

NVML_CLOCK_GRAPHICS, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 0, 2, 0

def nvmlInit(): pass
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(device): return "NVIDIA GeForce RTX 4090"
def nvmlDeviceGetClockInfo(device, kind): return {0: 2520, 2: 10501}[kind]
def nvmlDeviceGetPowerUsage(device): return 311000

def refuse(*arguments): raise NVMLError("Not Supported")

nvmlDeviceGetTemperature = nvmlDeviceGetUtilizationRates = nvmlDeviceGetMemoryInfo = refuse
nvmlDeviceGetFieldValues = nvmlDeviceGetCurrentClocksEventReasons = refuse
nvmlDeviceGetCurrentClocksThrottleReasons = refuse
"""


def test_a_graphics_card_is_read_beside_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/pynvml.py").write_text(PLAYED_CARD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    cpu = {"sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": 5000000}
    with BoardSampler(root=write(tmp_path / "root", cpu)) as sampler:
        pass
    trace = sampler.stop()
    assert (trace.source, trace.board) == ("nvml", "NVIDIA GeForce RTX 4090")
    assert trace.total_rail == "GPU_BOARD"
    assert trace.samples[0].clocks_mhz == {"gpu": 2520, "emc": 10501, "cpu0": 5000}
    assert trace.samples[0].power_mw == {"GPU_BOARD": 311000}


def test_modules_where_we_run_do_not_stand_in_for_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    with BoardSampler() as sampler:
        pass
    assert sampler.stop().problem == ""


def test_a_machine_without_sensors_gives_an_empty_trace_at_once(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    begin = time.monotonic()
    with BoardSampler(root=tmp_path / "root") as sampler:
        pass
    trace = sampler.stop()
    assert time.monotonic() - begin < 8
    if trace.source != "nvml":  # a graphics card is no file
        assert (trace.source, trace.samples) == ("none", ())
        assert trace.problem == "this machine has no sensor that can be read"


def test_a_recorder_that_cannot_start_is_told_and_not_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with BoardSampler() as sampler:
        pass
    trace = sampler.stop()
    assert (trace.source, trace.samples) == ("none", ())
    assert trace.problem.startswith("the sampler could not be started: ")


def test_a_recorder_that_fails_at_its_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with BoardSampler() as sampler:
        pass
    assert sampler.stop().problem == "the sampler ended early: exit status 1"


def test_what_was_seen_before_the_recorder_died_is_kept() -> None:
    sampler = BoardSampler(hz=100)
    sampler.start()
    time.sleep(0.1)
    pid = recorder_of(sampler)
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    trace = sampler.stop()
    assert trace.samples
    assert trace.problem == "the sampler ended early: exit status -9"


def test_damaged_lines_are_left_out() -> None:
    sampler = BoardSampler(hz=100)
    sampler.start()
    with sampler._recording.open("ab") as stream:
        stream.write(b'{"time_ns": 12')
    time.sleep(0.1)
    trace = sampler.stop()
    assert trace.problem == ""
    assert len(trace.samples) > 2


def test_a_recorder_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeattn.profiling.board.sampler._STOP_TIMEOUT_S", 0.2)
    sampler = BoardSampler(hz=100)
    sampler.start()
    pid = recorder_of(sampler)
    os.kill(pid, signal.SIGSTOP)
    trace = sampler.stop()
    assert trace.problem == "the sampler did not stop within 0.2 s"
    assert trace.samples
    wait_until_gone(pid)


def test_an_exception_in_the_run_loses_nothing(tmp_path: Path) -> None:
    sampler, pids = BoardSampler(), []

    def crash() -> None:
        with sampler:
            pids.append(recorder_of(sampler))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    assert sampler.stop().samples
    wait_until_gone(pids[0])
    assert list((tmp_path / "tmp").iterdir()) == []


def test_stopping_twice_gives_the_same_trace_and_starting_anew_another() -> None:
    sampler = BoardSampler()
    assert sampler.stop().problem == "the sampler was not started"
    sampler.start()
    first = sampler.stop()
    assert sampler.stop() is first
    sampler.start()
    assert sampler.stop().samples[0].time_ns > first.samples[-1].time_ns


def test_a_second_start_leaves_no_recorder_behind(tmp_path: Path) -> None:
    sampler = BoardSampler()
    sampler.start()
    first = recorder_of(sampler)
    sampler.start()
    assert not is_running(first)
    sampler.stop()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_recorder_of_a_process_that_crashed_ends_and_cleans_up(tmp_path: Path) -> None:
    crash = (
        "import os\n"
        "from edgeattn.profiling.board.sampler import BoardSampler\n"
        "sampler = BoardSampler(hz=100)\n"
        "sampler.start()\n"
        "print(sampler._process.pid, flush=True)\n"
        "os.abort()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", crash], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGABRT
    wait_until_gone(int(done.stdout))
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("hz", [0, -1, 101, float("nan")])
def test_a_rate_out_of_range_is_refused(hz: float) -> None:
    with pytest.raises(DataError, match="up to 100"):
        BoardSampler(hz=hz)


@pytest.mark.jetson
def test_a_jetson_gives_watts_and_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.defpath + ":/usr/sbin:/sbin")
    with BoardSampler(hz=100) as sampler:
        start = time.perf_counter_ns()
        time.sleep(2)
        end = time.perf_counter_ns()
    trace = sampler.stop()
    assert trace.source in ("sysfs", "tegrastats")
    assert trace.power_mode
    assert trace.total_rail
    assert energy_per_query(trace, start, end, 1) is not None
