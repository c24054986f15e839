"""The process that watches the board: it writes a line for each sample until its input ends.

It keeps to a processor that the measured process does not use, if there is one, and gives way to
everything else. Its input is a pipe from the measured process; when that ends, by `stop()` or
because the process is gone, so does the recorder. Of a process that is gone it removes the
recording, which nobody will ask for.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgeattn.engine.host import parse_power_mode, read_text
from edgeattn.errors import EdgeAttnError
from edgeattn.profiling.board.nvml import NvmlReader
from edgeattn.profiling.board.sample import BoardSample
from edgeattn.profiling.board.sysfs import SysfsReader
from edgeattn.profiling.board.tegrastats import parse_line

# Written to the recorder by `stop()`; an end of the pipe without it is a process that is gone.
STOP = b"stop\n"

_NICE = 10
_QUERY_TIMEOUT_S = 5.0
_LEAST_TEGRASTATS_MS = 10
_READ_BYTES = 1 << 16


def main(arguments: list[str]) -> int:
    """Record until the standard input ends.

    Args:
        arguments: The file to write, the seconds between samples, where `/sys` and `/proc` stand.

    Returns:
        The exit status.
    """
    recording, period_s, root = Path(arguments[0]), float(arguments[1]), Path(arguments[2])
    _give_way()
    descriptor = os.open(recording, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(values: dict[str, Any]) -> None:
        os.write(descriptor, json.dumps(values).encode() + b"\n")

    stop = sys.stdin.fileno()
    described, samples = choose_sensors(root, period_s, stop)
    write(described)
    for sample in samples:
        write({name: value for name, value in vars(sample).items() if value or name == "time_ns"})
    os.close(descriptor)
    if not select.select([stop], [], [], 0)[0]:  # the sensors ended, not the measurement
        return int("problem" not in described)
    if os.read(stop, len(STOP)) != STOP:
        with contextlib.suppress(OSError):
            recording.unlink()
            recording.parent.rmdir()  # made for it alone, or not empty
    return 0


def choose_sensors(
    root: Path, period_s: float, stop: int
) -> tuple[dict[str, Any], Iterator[BoardSample]]:
    """Pick what this machine tells most through.

    Args:
        root: Where `/sys` and `/proc` stand.
        period_s: Time between samples.
        stop: Descriptor that becomes readable when it is time to stop.

    Returns:
        What to say of the whole trace, by the names of `BoardTrace`, and the samples.
    """
    files = SysfsReader(root)
    model = read_text(root / "proc/device-tree/model")
    described: dict[str, Any] = {
        "source": files.source,
        "board": model or read_text(root / "sys/class/dmi/id/product_name") or "",
        "power_mode": _power_mode(),
        "jetson_clocks": files.gpu_is_locked(),
    }
    if files.has_rails:
        return described, _polled(files.sample, period_s, stop)
    if tegrastats := shutil.which("tegrastats"):
        described["source"] = "tegrastats"
        return described, _streamed(tegrastats, period_s, stop)
    with contextlib.suppress(EdgeAttnError):
        card = NvmlReader()
        described |= {"source": "nvml", "board": card.name or described["board"]}

        def together(time_ns: int, *, complete: bool) -> BoardSample:
            return _merged(files.sample(time_ns, complete=complete), card.sample(time_ns))

        return described, _polled(together, period_s, stop)
    if files.source == "none":
        described["problem"] = "this machine has no sensor that can be read"
        return described, iter(())
    return described, _polled(files.sample, period_s, stop)


def _merged(machine: BoardSample, card: BoardSample) -> BoardSample:
    """Put what a graphics card says into what its machine says; the memory is the card's."""
    return BoardSample(
        time_ns=machine.time_ns,
        clocks_mhz={**machine.clocks_mhz, **card.clocks_mhz},
        temperatures_c={**machine.temperatures_c, **card.temperatures_c},
        power_mw={**machine.power_mw, **card.power_mw},
        utilisation_percent={**machine.utilisation_percent, **card.utilisation_percent},
        memory_used_bytes=card.memory_used_bytes,
        throttled=tuple(sorted({*machine.throttled, *card.throttled})),
    )


def _polled(read: Callable[..., BoardSample], period_s: float, stop: int) -> Iterator[BoardSample]:
    """Read sensors at even times, once more at the end; times that were missed are left out."""
    due = time.perf_counter()
    while True:
        yield read(time.perf_counter_ns(), complete=False)
        due = max(due + period_s, time.perf_counter())
        if select.select([stop], [], [], max(0.0, due - time.perf_counter()))[0]:
            yield read(time.perf_counter_ns(), complete=True)
            return


def _streamed(tegrastats: str, period_s: float, stop: int) -> Iterator[BoardSample]:
    """Run tegrastats and read what it prints."""
    interval_ms = max(_LEAST_TEGRASTATS_MS, round(period_s * 1e3))
    with subprocess.Popen(
        [tegrastats, "--interval", str(interval_ms)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        lines, rest = process.stdout.fileno(), b""
        try:
            while stop not in (ready := select.select([stop, lines], [], [])[0]):
                data = os.read(lines, _READ_BYTES) if lines in ready else b""
                if not data:
                    sys.stderr.write("tegrastats ended by itself\n")
                    return
                now = time.perf_counter_ns()
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    if sample := parse_line(line.decode(errors="replace"), now):
                        yield sample
        finally:
            process.terminate()


def _give_way() -> None:
    """Move out of the measured process' way, as far as the system lets."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    if not hasattr(os, "sched_setaffinity"):
        return
    taken = os.sched_getaffinity(0)  # inherited
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    allowed = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {max(allowed - taken or allowed)})


def _power_mode() -> str:
    """Ask nvpmodel for the name of the power mode; empty if it is not there."""
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_QUERY_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return parse_power_mode(done.stdout)[0]
