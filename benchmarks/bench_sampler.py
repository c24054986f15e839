"""Does watching the board move the latency that is measured?

One query of the CPU engine, timed in rounds of four blocks: without the sampler, with it, with it,
without it, so that drift of the machine hits both alike. The sampler takes 100 samples a second,
the most it offers. Each round gives a ratio of medians, with to without; the figure is the median
of the rounds, with its quartiles. Beside it stands the same of the two blocks without the sampler,
the last to the first: what the machine does by itself. Quartiles that lie far apart say that the
machine was not quiet, and that the figure is not to be had on it.

    python -m benchmarks.bench_sampler [--model NAME] [--rounds N] [--seconds S] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
from pathlib import Path
from typing import Any

import edgeattn
from benchmarks.rows import append_row
from edgeattn.engine.base import BoundQuery
from edgeattn.engine.host import usable_cores
from edgeattn.engine.random_inputs import random_inputs
from edgeattn.profiling.board.sampler import MAX_HZ, BoardSampler
from edgeattn.profiling.measure import measure

MOST_PERCENT = 1.0  # what the sampler may move the median by


class Blocks:
    """Timed blocks of one query.

    Args:
        query: What to time.
        seconds: How long a block lasts.
    """

    def __init__(self, query: BoundQuery, seconds: float) -> None:
        self._query = query
        self._seconds = seconds
        self.samples = 0
        self.source = ""

    def without(self) -> list[float]:
        """Time a block, nothing watching; milliseconds of each query."""
        measurement = measure(self._query, duration_s=self._seconds, warm_up_ms=200)
        return measurement.latency_ms

    def watched(self) -> list[float]:
        """Time a block beside a sampler."""
        with BoardSampler(hz=MAX_HZ) as sampler:
            times = self.without()
        trace = sampler.stop()
        if trace.problem:
            raise SystemExit(f"the sampler did not run: {trace.problem}")
        self.samples += len(trace.samples)
        self.source = trace.source
        return times


def compare(blocks: Blocks, rounds: int) -> dict[str, Any]:
    """Time the blocks of all rounds and put the medians of each side by side."""
    alone, beside, moved, noise = [], [], [], []
    for _ in range(rounds):
        first, watched = blocks.without(), blocks.watched() + blocks.watched()
        last = blocks.without()
        alone.append(statistics.median(first + last))
        beside.append(statistics.median(watched))
        moved.append(100 * (beside[-1] / alone[-1] - 1))
        noise.append(100 * (statistics.median(last) / statistics.median(first) - 1))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "p50_ms_without": statistics.median(alone),
        "p50_ms_with": statistics.median(beside),
        "moved_percent": statistics.quantiles(moved, n=4),
        "noise_percent": statistics.quantiles(noise, n=4),
        "samples": blocks.samples,
        "source": blocks.source,
        "cpu_ms_per_sample": 1e3 * (used.ru_utime + used.ru_stime) / blocks.samples,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mswin_nano", help="a model of the registry")
    parser.add_argument("--rounds", type=int, default=10, help="at least 2")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a block")
    parser.add_argument("--threads", type=int, default=usable_cores())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        graph = edgeattn.export(arguments.model, output=Path(folder) / "model.onnx")
        with edgeattn.load(graph, threads=arguments.threads) as engine:
            query = engine.bind(random_inputs(engine.inputs))
            result = compare(Blocks(query, arguments.seconds), arguments.rounds)
    case = {name: getattr(arguments, name) for name in ("model", "rounds", "seconds", "threads")}
    append_row("sampler", case | {"hz": MAX_HZ}, result)
    print(
        f"{arguments.model}, {arguments.threads} threads: median {result['p50_ms_without']:.3f} ms "
        f"alone, {result['p50_ms_with']:.3f} ms beside the sampler"
    )
    low, moved, high = result["moved_percent"]
    print(f"moved by {moved:+.2f} % ({low:+.2f} to {high:+.2f}); allowed {MOST_PERCENT:g} %")
    low, noise, high = result["noise_percent"]
    print(f"the machine by itself moved by {noise:+.2f} % ({low:+.2f} to {high:+.2f})")
    print(
        f"{result['samples']} samples of {result['source']}, {result['cpu_ms_per_sample']:.2f} ms "
        "of a processor each, its start included"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
