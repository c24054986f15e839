"""Does watching the board move the latency that is measured?

One query of the CPU engine runs without a pause beside one sampler, which takes 100 samples a
second, the most it offers. The sampler is stopped and let go on every tenth of a second: stopped,
going, going, stopped, over and over, so that what the machine does by itself, which lasts longer,
hits both alike. Each such round gives a ratio of medians, going to stopped; the figure is the
median of the rounds, with the interval that holds it in 95 of 100 such runs. Beside it stands the
same of the two stopped stretches, the last to the first: what no sampler moved.

    python -m benchmarks.bench_sampler [--model NAME] [--rounds N] [--seconds S] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import edgeattn
from benchmarks.rows import append_row
from edgeattn.engine.host import usable_cores
from edgeattn.engine.random_inputs import random_inputs
from edgeattn.profiling.board.sampler import MAX_HZ, BoardSampler
from edgeattn.profiling.bootstrap import median_interval
from edgeattn.profiling.measure import Query, measure

MOST_PERCENT = 1.0  # what the sampler may move the median by
_WARM_UP_S = 1.0
_ROUND = (signal.SIGSTOP, signal.SIGCONT, signal.SIGCONT, signal.SIGSTOP)


def compare(query: Query, rounds: int, seconds: float) -> dict[str, Any]:
    """Time a query beside a sampler that is stopped half of the time.

    Args:
        query: What to time.
        rounds: Number of rounds, each of four stretches.
        seconds: How long a stretch lasts.

    Returns:
        Medians in ms, and by how many percent the sampler, and nothing at all, moved them: low end,
        median and high end.
    """
    _median_ms(query, _WARM_UP_S)
    stopped, going, moved, noise = [], [], [], []
    with BoardSampler(hz=MAX_HZ) as sampler:
        (recorder,) = _children()
        for _ in range(rounds):
            first, one, two, last = (_stretch(query, seconds, recorder, way) for way in _ROUND)
            stopped.append((first + last) / 2)
            going.append((one + two) / 2)
            moved.append(100 * (going[-1] / stopped[-1] - 1))
            noise.append(100 * (last / first - 1))
        os.kill(recorder, signal.SIGCONT)
    trace = sampler.stop()
    if trace.problem:
        raise SystemExit(f"the sampler did not run: {trace.problem}")
    return {
        "p50_ms_without": statistics.median(stopped),
        "p50_ms_with": statistics.median(going),
        "moved_percent": _with_interval(moved),
        "noise_percent": _with_interval(noise),
        "samples": len(trace.samples),
        "source": trace.source,
    }


def _stretch(query: Query, seconds: float, recorder: int, way: signal.Signals) -> float:
    os.kill(recorder, way)
    return _median_ms(query, seconds)


def _median_ms(query: Query, seconds: float) -> float:
    measurement = measure(query, iterations=1, duration_s=seconds, warm_up_ms=0)
    return statistics.median(measurement.latency_ms)


def _with_interval(samples: list[float]) -> list[float]:
    bounds = median_interval(samples)
    if bounds is None:
        raise SystemExit(f"{len(samples)} rounds have no interval; give --rounds 6 or more")
    return [bounds[0], statistics.median(samples), bounds[1]]


def _children() -> list[int]:
    """List the processes that this one has started."""
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _measured(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        graph = edgeattn.export(arguments.model, output=Path(folder) / "model.onnx")
        with edgeattn.load(graph, threads=arguments.threads) as engine:
            query = engine.bind(random_inputs(engine.inputs))
            return compare(query, arguments.rounds, arguments.seconds)


def main() -> int:
    """Run the benchmark; 1 if the sampler certainly moves the median by more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mswin_nano", help="a model of the registry")
    parser.add_argument("--rounds", type=int, default=400, help="at least 6")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a stretch")
    parser.add_argument("--threads", type=int, default=usable_cores())
    arguments = parser.parse_args()
    result = _measured(arguments)
    case = {name: getattr(arguments, name) for name in ("model", "rounds", "seconds", "threads")}
    append_row("sampler", case | {"hz": MAX_HZ}, result)
    print(
        f"{arguments.model}, {arguments.threads} threads: median {result['p50_ms_without']:.3f} ms "
        f"alone, {result['p50_ms_with']:.3f} ms beside the sampler"
    )
    low, moved, high = result["moved_percent"]
    print(f"moved by {moved:+.2f} % ({low:+.2f} to {high:+.2f}); allowed {MOST_PERCENT:g} %")
    low_noise, noise, high_noise = result["noise_percent"]
    print(f"nothing moved by {noise:+.2f} % ({low_noise:+.2f} to {high_noise:+.2f})")
    print(f"{result['samples']} samples of {result['source']}")
    print(json.dumps(result))
    return int(low > MOST_PERCENT)


if __name__ == "__main__":
    sys.exit(main())
