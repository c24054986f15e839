"""Sustained runs on a clock that the test moves: minutes, blocks, what the board did meanwhile."""

from __future__ import annotations

import gc
import json
import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeattn.engine.base import QueryTimes
from edgeattn.errors import ArtifactError, DataError
from edgeattn.profiling import sustained
from edgeattn.profiling.board.sample import BoardSample, BoardTrace
from edgeattn.profiling.board.sampler import BoardSampler
from edgeattn.profiling.modes import MODES
from edgeattn.profiling.page.minutes import sustained_values
from edgeattn.profiling.sustained import Sustained, board_hz, sustain
from tests.edgeattn.profiling.board.boards import orin_nano

MS = 1_000_000
S = 1000 * MS
WARM_UP_MS = 200


class FakeClock:
    """A clock that stands still unless a query takes time; the first timed one begins at 0."""

    def __init__(self) -> None:
        self.now = -WARM_UP_MS * MS
        self.calls = 0

    def __call__(self) -> int:
        return self.now

    def query(self, takes_ms: float | Callable[[int], float]) -> Callable[[], None]:
        """Make a query that takes so long, or as long as a function of the time says."""

        def run() -> None:
            self.calls += 1
            took_ms = takes_ms(self.now) if callable(takes_ms) else takes_ms
            self.now += round(took_ms * MS)

        return run


class ScriptedSampler:
    """A double of the board's sampler that hands out a trace made by hand; it reads nothing."""

    def __init__(self, trace: BoardTrace) -> None:
        self.trace = trace
        self.told: list[str] = []

    def start(self) -> None:
        self.told.append("start")

    def stop(self) -> BoardTrace:
        self.told.append("stop")
        return self.trace


def run(clock: FakeClock, takes_ms: Any, minutes: float, **changes: Any) -> Sustained:
    options = {
        "read": MODES["device"].read,
        "device": "gpu",
        "percentiles": "nearest-rank",
        "sampler": None,
        "warm_up_ms": WARM_UP_MS,
        "clock": clock,
    }
    return sustain([clock.query(takes_ms)], minutes, **(options | changes))


def test_each_minute_has_percentiles_of_its_own_queries() -> None:
    def takes_ms(now: int) -> float:
        if now >= 120 * S:
            return 12.5
        return 10.0 if now % S else 40.0  # the first query of every second

    first, second, third = run(FakeClock(), takes_ms, 3).minutes
    for number, minute in enumerate((first, second)):
        assert minute.start_s == pytest.approx(60 * number, abs=0.1)
        assert minute.end_s - minute.start_s == pytest.approx(60, abs=0.05)
        assert minute.p50_ms == 10.0
        assert (minute.p99_ms, minute.max_ms) == (40.0, 40.0)
        # 60 seconds of one query of 40 ms and 96 of 10 ms, less what settles after a pause
        assert minute.num_samples == pytest.approx(60 * 97, abs=3)
        assert minute.throughput_qps == pytest.approx(97, rel=1e-3)
    assert (third.p50_ms, third.p99_ms, third.num_samples) == (12.5, 12.5, 4800)
    assert third.throughput_qps == pytest.approx(80)


@pytest.mark.parametrize(
    ("minutes", "lengths_s"),
    [(0.05, [3]), (1, [60]), (2.5, [60, 60, 30]), (1 + 1e-9, [60]), (0.1 + 0.2, [18])],
)
def test_the_last_minute_may_be_a_fraction(minutes: float, lengths_s: list[float]) -> None:
    told = run(FakeClock(), 25.0, minutes).minutes
    assert [m.end_s - m.start_s for m in told] == pytest.approx(lengths_s, abs=0.05)


def test_a_minute_ends_with_the_query_that_is_under_way() -> None:
    told = run(FakeClock(), 45_000.0, 2, warm_up_ms=0).minutes
    # Between two that are timed lies one that settles what the pause left behind.
    assert [(m.start_s, m.end_s, m.num_samples) for m in told] == [(0, 135, 2), (180, 270, 2)]
    assert all(m.p99_ms is None and m.max_ms == 45_000 for m in told)


def test_only_the_first_queries_after_a_pause_are_not_timed() -> None:
    clock = FakeClock()
    told = run(clock, 1.0, 1)
    # 1 s, then blocks of 20,000 queries of 1 ms; each but the first settles for 10 ms
    blocks = 1 + math.ceil((60_000 - 1_000) / 20_010)
    untimed = clock.calls - told.minutes[0].num_samples
    assert untimed == WARM_UP_MS + 10 * (blocks - 1)


def test_slow_queries_run_through_the_minute_without_a_pause() -> None:
    clock = FakeClock()
    told = run(clock, 50.0, 3)
    untimed = clock.calls - sum(minute.num_samples for minute in told.minutes)
    # the warm-up, one after the first second, which told how fast they are, one for each minute
    assert untimed == WARM_UP_MS // 50 + 1 + 2


def test_memory_does_not_grow_with_the_length_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sustained, "_BLOCK_QUERIES", 200)  # or one block outweighs all minutes

    def peak(minutes: float) -> int:
        tracemalloc.start()
        run(FakeClock(), 20.0, minutes)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(4) < 1.05 * peak(2)


def test_drift_compares_the_last_full_minute_with_the_first() -> None:
    def takes_ms(now: int) -> float:
        return (10.0, 11.0, 11.5, 80.0)[min(now // (60 * S), 3)]

    told = run(FakeClock(), takes_ms, 3.5)
    assert told.minutes[3].p50_ms == 80
    assert told.drift_percent == pytest.approx(15.0)
    assert told.warnings == (
        "the latency drifted: the median of the last minute is 15.0 % above that of the first",
    )


@pytest.mark.parametrize(("minutes", "percent"), [(2.9, 10.0), (2.99, 15.0)])
def test_a_last_minute_that_is_all_but_whole_counts_and_the_page_names_the_same(
    minutes: float, percent: float
) -> None:
    told = run(FakeClock(), lambda now: (10.0, 11.0, 11.5)[now // (60 * S)], minutes)
    assert told.drift_percent == pytest.approx(percent)
    said = sustained_values(told.to_dict())["summary"][1]
    assert said.endswith(f"from 10.00 ms to {10 + percent / 10:.2f} ms: +{percent:.1f} %.")


@pytest.mark.parametrize("minutes", [0.5, 1, 1.9])
def test_less_than_two_minutes_tell_no_drift(minutes: float) -> None:
    told = run(FakeClock(), 10.0, minutes)
    assert told.drift_percent is None
    assert told.warnings == ()


def test_a_small_drift_is_told_but_not_warned_of() -> None:
    told = run(FakeClock(), lambda now: 10.0 if now < 60 * S else 9.6, 2)
    assert told.drift_percent == pytest.approx(-4.0)
    assert told.warnings == ()


def board(minutes: int) -> BoardTrace:
    """Make a board that is held down in its second minute, two samples a second."""
    samples = []
    for half in range(-4, 120 * minutes + 4):
        is_held = 120 <= half < 240
        reasons = ("thermal",) if is_held and half % 40 == 1 else ()
        samples.append(
            BoardSample(
                half * S // 2,
                clocks_mhz={"gpu": 612.0 if is_held else 1020.0, "cpu0": 729.6},
                temperatures_c={"cpu": 50.0, "tj": 60.0 + half / 60},
                power_mw={"VDD_IN": 9000.0 if half % 2 else 9500.0, "VDD_CPU_GPU_CV": 2500.0},
                throttled=reasons,
            )
        )
    return BoardTrace(tuple(samples), "sysfs", 0.5, total_rail="VDD_IN")


def test_minutes_tell_what_the_board_did_meanwhile() -> None:
    sampler = ScriptedSampler(board(3))
    told = run(FakeClock(), 50.0, 3, sampler=sampler)
    assert sampler.told == ["start", "stop"]
    assert told.board is sampler.trace
    assert [m.verdict for m in told.minutes] == ["stable", "throttled", "stable"]
    assert [m.clock_mhz for m in told.minutes] == pytest.approx([1020, 612, 1020], abs=5)
    assert [m.temperature_c for m in told.minutes] == pytest.approx([62, 64, 66], abs=0.02)
    assert [m.power_mw for m in told.minutes] == pytest.approx([9250] * 3, abs=5)
    assert told.warnings == (
        "the board did not keep its clocks in 1 of 3 minutes, at first in minute 2: thermal, seen "
        "3 times in 120 samples",
    )


def test_a_processor_is_judged_by_its_own_clock() -> None:
    told = run(FakeClock(), 50.0, 1, sampler=ScriptedSampler(board(1)), device="cpu")
    assert told.minutes[0].clock_mhz == pytest.approx(729.6)


def test_what_no_sensor_told_is_unknown() -> None:
    for sampler in (None, ScriptedSampler(BoardTrace(problem="nothing here"))):
        told = run(FakeClock(), 50.0, 0.5, sampler=sampler)
        minute = told.minutes[0]
        assert (minute.clock_mhz, minute.temperature_c, minute.power_mw) == (None, None, None)
        assert minute.verdict == "unknown"
        assert told.warnings == ()


def test_a_board_that_was_lost_on_the_way_is_warned_of() -> None:
    trace = BoardTrace(board(1).samples, "sysfs", 0.5, problem="the sampler ended early: killed")
    told = run(FakeClock(), 50.0, 1, sampler=ScriptedSampler(trace))
    assert told.warnings == (
        "the board was watched in part only during the sustained run: the sampler ended early: "
        "killed",
    )
    assert told.minutes[0].power_mw is None  # the trace names no rail of the whole


def interrupting(at_s: float) -> Callable[[int], float]:
    def takes_ms(now: int) -> float:
        if now >= at_s * S:
            raise KeyboardInterrupt
        return 10.0

    return takes_ms


def test_ctrl_c_keeps_the_minutes_that_are_whole() -> None:
    sampler = ScriptedSampler(board(10))
    told = run(FakeClock(), interrupting(205), 10, sampler=sampler)
    assert len(told.minutes) == 3
    assert told.drift_percent == pytest.approx(0)
    assert told.warnings[-1] == (
        "the run was interrupted: it shows the 3 of 10 minutes that were whole"
    )
    assert sampler.told == ["start", "stop"]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_collections_between_blocks_look_at_new_objects_only() -> None:
    frozen: list[int] = []

    def takes_ms(now: int) -> float:
        if now % (10 * S) == 0:  # counting takes long
            frozen.append(gc.get_freeze_count())
        return 10.0

    run(FakeClock(), takes_ms, 0.5)
    assert len(frozen) >= 3
    assert min(frozen) > 1000
    assert gc.get_freeze_count() == 0


def test_ctrl_c_in_the_first_minute_is_an_interrupt() -> None:
    sampler = ScriptedSampler(board(1))
    with pytest.raises(KeyboardInterrupt):
        run(FakeClock(), interrupting(59), 10, sampler=sampler)
    assert sampler.told == ["start", "stop"]


def test_the_mode_decides_what_a_latency_holds_and_whose_percentiles_count() -> None:
    clock = FakeClock()
    clock.now = 0

    class WithCopies:
        """A query that copies for 2 ms, computes for 10 ms, and 30 ms at first, and copies."""

        def __call__(self) -> None:
            self.timed()

        def timed(self) -> QueryTimes:
            t = clock.now
            compute = 30 if t == 0 else 10
            clock.now += (4 + compute) * MS
            h2d_end, end = t + 2 * MS, t + (2 + compute) * MS
            return QueryTimes(t, t + 1, t, h2d_end, h2d_end, end, end, end + 2 * MS)

    mode = MODES["trtexec-11"]
    told = sustain(
        [WithCopies()],
        1 / 60,
        read=mode.read,
        device="gpu",
        percentiles=mode.percentiles,
        sampler=None,
        warm_up_ms=0,
        clock=clock,
    )
    (minute,) = told.minutes
    assert (minute.p50_ms, minute.max_ms) == (10.0, 30.0)
    assert minute.num_samples == 70  # 34 ms, then 69 of 14 ms
    assert minute.p99_ms == 30.0  # of 70 queries trtexec gives the maximum


def test_streams_run_at_the_same_time() -> None:
    def nap() -> None:
        time.sleep(0.01)

    told = sustain(
        [nap, nap, nap],
        0.005,
        read=MODES["host"].read,
        device="cpu",
        percentiles="nearest-rank",
        sampler=None,
        warm_up_ms=0,
    )
    (minute,) = told.minutes
    assert minute.end_s >= 0.3
    assert minute.throughput_qps > 1.5 / minute.p50_ms * 1e3


def test_a_real_sampler_watches_a_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A place of its own: in the machine's, other tests and runs have samplers too.
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    begin = time.monotonic()
    told = sustain(
        [lambda: time.sleep(0.005)],
        0.03,
        read=MODES["device"].read,
        device="gpu",
        percentiles="nearest-rank",
        sampler=BoardSampler(board_hz(0.03), orin_nano(tmp_path)),
        warm_up_ms=0,
    )
    seconds = time.monotonic() - begin
    (minute,) = told.minutes
    # Two a second, and one at each end; on a busy machine it lasts longer, and may miss some.
    assert 3 <= len(told.board.samples) <= 2 * seconds + 2
    assert (minute.clock_mhz, minute.verdict) == (306, "stable")
    assert minute.temperature_c == pytest.approx(64.031)
    assert minute.power_mw == pytest.approx(4984 * 1856 / 1000, rel=1e-3)
    assert 10 < minute.num_samples <= 1.9 / 0.005
    assert not list(scratch.iterdir())


def test_progress_tells_how_the_last_minute_went() -> None:
    said: list[tuple[int, int | None, str]] = []
    run(FakeClock(), 10.0, 2, progress=lambda *step: said.append(step))
    assert [(done, total) for done, total, _ in said] == [(0, 2), (1, 2), (2, 2)]
    assert said[1][2] == "sustain, last minute: p50 10.000, p99 10.000 ms"


@pytest.mark.parametrize("minutes", [0, -1, math.inf, math.nan])
def test_a_length_that_is_none_is_refused(minutes: float) -> None:
    with pytest.raises(DataError, match=f"minutes is {minutes}; expected a finite time above 0"):
        run(FakeClock(), 10.0, minutes)


def test_no_query_is_refused() -> None:
    with pytest.raises(DataError, match="no query"):
        sustain(
            [],
            1,
            read=MODES["host"].read,
            device="cpu",
            percentiles="nearest-rank",
            sampler=None,
        )


def test_a_run_reads_back_as_it_was_written() -> None:
    told = run(FakeClock(), 50.0, 2.5, sampler=ScriptedSampler(board(3)))
    assert Sustained.from_dict(json.loads(json.dumps(told.to_dict()))) == told


@pytest.mark.parametrize(
    "change",
    [
        {"minutes": []},
        {"minutes": [{"start_s": 0.0}]},
        {"minutes": 7},
        {"board": None},
        {"warnings": None},
    ],
)
def test_values_that_are_no_run_are_refused(change: dict[str, Any]) -> None:
    values = run(FakeClock(), 50.0, 0.5).to_dict()
    with pytest.raises(ArtifactError, match="the sustained run is malformed"):
        Sustained.from_dict(values | change)
    with pytest.raises(ArtifactError, match="malformed"):
        Sustained.from_dict({name: values[name] for name in values if name not in change})


def test_a_verdict_that_nobody_gives_is_refused() -> None:
    values = run(FakeClock(), 50.0, 0.5).to_dict()
    values["minutes"][0]["verdict"] = "fine"
    with pytest.raises(ArtifactError, match="there is no verdict 'fine'"):
        Sustained.from_dict(values)


@pytest.mark.parametrize(
    ("minutes", "hz"), [(0.05, 2), (60, 2), (120, 1), (480, 0.25), (1440, 0.2), (10_000, 0.2)]
)
def test_samples_of_the_board_stay_few_in_long_runs(minutes: float, hz: float) -> None:
    assert board_hz(minutes) == pytest.approx(hz)


@pytest.mark.jetson
def test_a_jetson_tells_clock_temperature_and_watts_of_each_minute() -> None:
    told = sustain(
        [lambda: sum(range(20_000))],
        0.1,
        read=MODES["host"].read,
        device="cpu",
        percentiles="nearest-rank",
        sampler=BoardSampler(board_hz(0.1)),
    )
    (minute,) = told.minutes
    assert told.board.problem == ""
    assert minute.clock_mhz is not None
    assert minute.clock_mhz > 100
    assert minute.temperature_c is not None
    assert 10 < minute.temperature_c < 110
    assert minute.power_mw is not None
    assert minute.power_mw > 500
    assert minute.verdict in ("stable", "throttled", "unknown")
