"""What does the timing loop itself cost?

A query that only notes when it ran is repeated by the loops of `profiling.measure` and by a bare
`for` loop, in turns. From the first query to the last, the difference per iteration is what a loop
adds: for a plain callable, for a query that tells its own times as a device's does, and for two
streams, which share one interpreter. What is put together afterwards disturbs no query and does not
count. The median of the rounds is reported: other work on the machine makes single ones longer.

    python -m benchmarks.bench_measure [--iterations N] [--rounds N]
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.rows import append_row
from edgeattn.engine.base import QueryTimes
from edgeattn.profiling.measure import measure, measure_streams

MOST_US = 2.0  # what a loop may add to an iteration
STREAMS = 2


class Noting:
    """A query that does nothing but note when it first and last ran."""

    def __init__(self) -> None:
        self.first_ns = self.last_ns = 0

    def __call__(self) -> None:
        """Note the time."""
        self.last_ns = time.perf_counter_ns()
        self.first_ns = self.first_ns or self.last_ns


class NotingTimed(Noting):
    """The same as an engine on a device offers it."""

    _TIMES = QueryTimes(0, 1, 0, 0, 0, 1, 1, 1)

    def timed(self) -> QueryTimes:
        """Note the time and tell times that were read elsewhere."""
        self()
        return self._TIMES


def spent_us(queries: Sequence[Noting], run: Callable[[], object]) -> float:
    """Run a loop; microseconds from its first query to its last."""
    run()
    first = min(query.first_ns for query in queries)
    last = max(query.last_ns for query in queries)
    return (last - first) / 1e3


def bare(query: Callable[[], object], iterations: int) -> None:
    """Repeat a query with nothing around it: the loop that others are compared with."""
    for _ in range(iterations):
        query()


def added_us(iterations: int, rounds: int) -> dict[str, float]:
    """Measure what the loops add to an iteration.

    Args:
        iterations: Queries of a round, at least two.
        rounds: Rounds of each loop, in turns with bare ones.

    Returns:
        Microseconds per iteration, by the form of the loop.
    """
    loop = functools.partial(measure, iterations=iterations, duration_s=0, warm_up_ms=0)
    streams = functools.partial(measure_streams, iterations=iterations, duration_s=0, warm_up_ms=0)
    found: dict[str, list[float]] = {"plain": [], "timed": [], "streams": []}
    for _ in range(rounds):
        plain, timed, crowd = Noting(), NotingTimed(), [Noting() for _ in range(STREAMS)]
        base = spent_us([plain], functools.partial(bare, plain, iterations)) / iterations
        base_timed = spent_us([timed], functools.partial(bare, timed.timed, iterations))
        plain, timed = Noting(), NotingTimed()
        cost = spent_us([plain], functools.partial(loop, plain))
        found["plain"].append(cost / iterations - base)
        cost = spent_us([timed], functools.partial(loop, timed))
        found["timed"].append((cost - base_timed) / iterations)
        cost = spent_us(crowd, functools.partial(streams, crowd))
        found["streams"].append(cost / (iterations * STREAMS) - base)
    return {form: statistics.median(costs) for form, costs in found.items()}


def main() -> None:
    """Run the benchmark; exit with 1 if a loop costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=100_000, help="queries of a round")
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    result = added_us(arguments.iterations, arguments.rounds)
    append_row("measure", vars(arguments) | {"streams": STREAMS}, result)
    for form, cost in result.items():
        print(f"{form:<8} {cost:.3f} us per iteration over a bare loop (allowed {MOST_US:g})")
    print(json.dumps(result))
    sys.exit(int(max(result.values()) > MOST_US))


if __name__ == "__main__":
    main()
