"""What an engine keeps up: its latency minute by minute, with the board's clocks and temperature.

A board that is cold runs faster than one that has worked for ten minutes, and a short measurement
sees the cold one. Here one query follows the other for as long as asked, and every minute has
percentiles of its own.

A minute at 0.1 ms a query is 600,000 queries, whose times would take 0.5 GB and, between minutes,
two seconds to sort out, in which the board cools. So it is measured in blocks of about 20,000
queries: 20 MB, whatever the length of the run, and a pause of about 3 us for each query after its
block. A block begins with 10 ms of queries that are not timed, so that no latency holds what the
pause left behind; slow queries have no pause within a minute at all. Every timed query counts in
its minute's percentiles.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from edgeattn.errors import ArtifactError, DataError
from edgeattn.profiling.board.rails import total_mw
from edgeattn.profiling.board.sample import BoardTrace
from edgeattn.profiling.board.sampler import BoardSampler
from edgeattn.profiling.board.verdict import Device, Verdict, Word, device_clock_mhz, verdict
from edgeattn.profiling.measure import WARM_UP_MS, Clock, Query, measure, measure_streams
from edgeattn.profiling.measurement import Measurement
from edgeattn.profiling.stats import PercentileRule, percentile_ms, trtexec_percentile_ms

# Samples of the board: twice a second for an hour, or as many over a longer run; every five seconds
# at the least, so that a verdict on a minute has enough of them.
_MOST_HZ, _LEAST_HZ = 2.0, 0.2
_SAMPLES = 7200

_MINUTE_S = 60.0
# A minute that is shorter than this is the fraction that ended the run.
FULL_S = 59.0
_BLOCK_QUERIES = 20_000
_FIRST_BLOCK_S = 1.0
_SETTLE_MS = 10.0
_LEAST_S = 1e-3  # a rest of a minute that is only rounding
_MAX_DRIFT_PERCENT = 5.0


@dataclass(frozen=True)
class Minute:
    """One minute of a sustained run, or the fraction of one that ends it.

    Attributes:
        start_s: When its first timed query began, from that of the run on.
        end_s: When its last one ended.
        num_samples: Timed queries.
        p50_ms: Median latency, by the percentiles of the mode.
        p99_ms: Latency that 99 % of the queries keep to; `None` below 100 queries, unless the
            mode's percentiles give their maximum.
        max_ms: Slowest query.
        throughput_qps: Queries per second while they were timed.
        clock_mhz: Mean clock of what did the work; `None` if it was not read.
        temperature_c: Hottest that a sensor of the board was; `None` if none was read.
        power_mw: Mean power of the whole board; `None` if its rails do not tell.
        verdict: `stable`, `throttled` or `unknown`, as the board kept its clocks.
    """

    start_s: float
    end_s: float
    num_samples: int
    p50_ms: float
    p99_ms: float | None
    max_ms: float
    throughput_qps: float
    clock_mhz: float | None
    temperature_c: float | None
    power_mw: float | None
    verdict: Word


@dataclass(frozen=True)
class Sustained:
    """A sustained run.

    Attributes:
        minutes: In their order, at least one.
        board: What the board's sensors said, sampled slowly.
        drift_percent: Median of the last full minute over that of the first, less one; `None` if
            there are not two.
        warnings: What a reader has to know, one sentence each.
    """

    minutes: tuple[Minute, ...]
    board: BoardTrace
    drift_percent: float | None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Turn the run into JSON values."""
        return {
            "minutes": [asdict(minute) for minute in self.minutes],
            "board": self.board.to_dict(),
            "drift_percent": self.drift_percent,
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, values: Any) -> Sustained:
        """Read a run back.

        Raises:
            ArtifactError: If the values are not what `to_dict` gives.
        """
        try:
            minutes = tuple(Minute(**minute) for minute in values["minutes"])
            if not minutes:
                raise ValueError("there is no minute")
            for minute in minutes:
                if minute.verdict not in get_args(Word):
                    raise ValueError(f"there is no verdict {minute.verdict!r}")
            board = BoardTrace.from_dict(values["board"])
            return cls(minutes, board, values["drift_percent"], tuple(values["warnings"]))
        except (KeyError, TypeError, ValueError) as err:
            raise ArtifactError(f"the sustained run is malformed: {err}") from err


@dataclass(frozen=True)
class _Timed:
    """A minute as the loop left it: see `Minute`; its ends are those of the clock."""

    start_ns: int
    end_ns: int
    num_samples: int
    p50_ms: float
    p99_ms: float | None
    max_ms: float
    throughput_qps: float


def board_hz(minutes: float) -> float:
    """Choose the samples a second to take of the board in a run of so many minutes, above 0."""
    return max(_LEAST_HZ, min(_MOST_HZ, _SAMPLES / (minutes * _MINUTE_S)))


def sustain(
    queries: Sequence[Query],
    minutes: float,
    *,
    read: Callable[[Measurement], Measurement],
    device: Device,
    percentiles: PercentileRule,
    sampler: BoardSampler | None,
    warm_up_ms: float = WARM_UP_MS,
    clock: Clock = time.perf_counter_ns,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Sustained:
    """Run queries for minutes and say how each minute went.

    Ctrl-C ends the run early: the minutes that are whole by then are kept.

    Args:
        queries: What to time; several run at the same time, each in a thread of its own.
        minutes: How long, above 0. Fractions are allowed: the last minute is shorter then. A
            minute ends with the query that is under way.
        read: Gives a measurement as the mode counts it: `Mode.read`.
        device: What does the work: its clock is told and judged.
        percentiles: Whose percentiles: `Mode.percentiles`.
        sampler: Watches the board, at `board_hz(minutes)`; started and stopped here.
            `None`: nobody does.
        warm_up_ms: Time to run without timing before.
        clock: Nanoseconds of a monotonic clock.
        progress: Called with minutes done, minutes in all, and how the last one went.

    Raises:
        DataError: If an argument is out of range, or there is no query.
        KeyboardInterrupt: If the run is interrupted before a minute is whole.
    """
    if not 0 < minutes < math.inf:
        raise DataError(f"minutes is {minutes}; expected a finite time above 0")
    full, rest_s = divmod(minutes * _MINUTE_S, _MINUTE_S)
    lengths = [_MINUTE_S] * int(full) + ([rest_s] if rest_s > _LEAST_S or not full else [])
    timed: list[_Timed] = []
    if progress is not None:
        progress(0, len(lengths), "sustain")
    try:
        if sampler is not None:
            sampler.start()
        with _small_heap():
            for minute in _run(queries, lengths, read, percentiles, warm_up_ms, clock):
                timed.append(minute)
                if progress is not None:
                    progress(len(timed), len(lengths), _words(minute))
    except KeyboardInterrupt:
        if not timed:
            raise
    finally:
        trace = sampler.stop() if sampler is not None else BoardTrace()
    verdicts = [verdict(trace, minute.start_ns, minute.end_ns, device) for minute in timed]
    told = tuple(
        _minute(minute, timed[0].start_ns, trace, device, judged.word)
        for minute, judged in zip(timed, verdicts, strict=True)
    )
    drift = _drift_percent([m for m in told if m.end_s - m.start_s >= FULL_S])
    warnings = list(_warnings(verdicts, drift, trace))
    if len(timed) < len(lengths):
        warnings.append(
            f"the run was interrupted: it shows the {len(timed)} of {len(lengths)} minutes that "
            "were whole"
        )
    return Sustained(told, trace, drift, tuple(warnings))


def _run(
    queries: Sequence[Query],
    lengths_s: Sequence[float],
    read: Callable[[Measurement], Measurement],
    rule: PercentileRule,
    warm_up_ms: float,
    clock: Clock,
) -> Iterator[_Timed]:
    """Measure minutes, block by block; of one that is over its figures are kept alone."""
    block_s, untimed_ms = _FIRST_BLOCK_S, warm_up_ms
    for length_s in lengths_s:
        start_ns, end_ns, wall_ns = 0, 0, 0
        blocks: list[np.ndarray] = []
        left_s = length_s
        while left_s > 0:
            block = _block(queries, min(block_s, left_s), untimed_ms, clock)
            began_ns, end_ns = block.window_ns
            start_ns = start_ns if blocks else began_ns
            wall_ns += block.wall_ns
            blocks.append(np.array(read(block).latency_ms))
            block_s, untimed_ms = _BLOCK_QUERIES / block.throughput_qps, _SETTLE_MS
            del block  # or it is there until the next one is made
            left_s = length_s - (clock() - start_ns) / 1e9
        ordered_ms = np.sort(np.concatenate(blocks)).tolist()
        yield _Timed(
            start_ns,
            end_ns,
            len(ordered_ms),
            *_percentiles(ordered_ms, rule),
            max_ms=ordered_ms[-1],
            throughput_qps=len(ordered_ms) / (wall_ns / 1e9),
        )
        del ordered_ms


def _block(
    queries: Sequence[Query], duration_s: float, warm_up_ms: float, clock: Clock
) -> Measurement:
    loop: dict[str, Any] = {
        "iterations": 1,
        "duration_s": duration_s,
        "warm_up_ms": warm_up_ms,
        "clock": clock,
    }
    if len(queries) == 1:
        return measure(queries[0], **loop)
    return measure_streams(queries, **loop)


@contextmanager
def _small_heap() -> Iterator[None]:
    """Have the collections before each block, a tenth of a second else, look at new objects only.

    What somebody froze before is thawed with the rest: collections look at it again.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _minute(timed: _Timed, origin_ns: int, trace: BoardTrace, device: Device, word: Word) -> Minute:
    """Join the queries of a minute with what the board did meanwhile."""
    samples = trace.window(timed.start_ns, timed.end_ns)
    temperatures = [celsius for sample in samples for celsius in sample.temperatures_c.values()]
    return Minute(
        start_s=(timed.start_ns - origin_ns) / 1e9,
        end_s=(timed.end_ns - origin_ns) / 1e9,
        num_samples=timed.num_samples,
        p50_ms=timed.p50_ms,
        p99_ms=timed.p99_ms,
        max_ms=timed.max_ms,
        throughput_qps=timed.throughput_qps,
        clock_mhz=_mean(device_clock_mhz(sample, device) for sample in samples),
        temperature_c=max(temperatures, default=None),
        power_mw=_mean(total_mw(sample, trace.total_rail) for sample in samples),
        verdict=word,
    )


def _percentiles(ordered_ms: list[float], rule: PercentileRule) -> tuple[float, float | None]:
    """Give the median and the 99 % percentile as `LatencyStats` does, without all the rest."""
    if rule == "trtexec":
        return statistics.median(ordered_ms), trtexec_percentile_ms(ordered_ms, 99)
    p99_ms = percentile_ms(ordered_ms, 99) if len(ordered_ms) >= 100 else None
    return percentile_ms(ordered_ms, 50), p99_ms


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _drift_percent(full: Sequence[Minute]) -> float | None:
    """Compare the medians of the last full minute and the first."""
    if len(full) < 2:
        return None
    return 100 * (full[-1].p50_ms / full[0].p50_ms - 1)


def _warnings(
    verdicts: Sequence[Verdict], drift_percent: float | None, trace: BoardTrace
) -> Iterator[str]:
    held = [number for number, judged in enumerate(verdicts, 1) if judged.word == "throttled"]
    if held:
        yield (
            f"the board did not keep its clocks in {len(held)} of {len(verdicts)} minutes, at "
            f"first in minute {held[0]}: {'; '.join(verdicts[held[0] - 1].reasons)}"
        )
    if drift_percent is not None and abs(drift_percent) > _MAX_DRIFT_PERCENT:
        yield (
            f"the latency drifted: the median of the last minute is {abs(drift_percent):.1f} % "
            f"{'above' if drift_percent > 0 else 'below'} that of the first"
        )
    if trace.source != "none" and trace.problem:
        yield f"the board was watched in part only during the sustained run: {trace.problem}"


def _words(timed: _Timed) -> str:
    worst = f"max {timed.max_ms:.3f}" if timed.p99_ms is None else f"p99 {timed.p99_ms:.3f}"
    return f"sustain, last minute: p50 {timed.p50_ms:.3f}, {worst} ms"
