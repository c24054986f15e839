"""Energy per query on traces whose integral is known in closed form."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable, Iterable

import pytest

from edgeattn.profiling.board.energy import energy_per_query, missing_energy
from edgeattn.profiling.board.sample import BoardSample, BoardTrace

S = 10**9


def trace(
    times_s: Iterable[float], power: Callable[[float], float], period_s: float = 0.1
) -> BoardTrace:
    samples = tuple(BoardSample(round(t * S), power_mw={"VDD_IN": power(t)}) for t in times_s)
    return BoardTrace(samples, "sysfs", period_s, total_rail="VDD_IN")


def every(period_s: float, start_s: float, end_s: float) -> list[float]:
    return [start_s + i * period_s for i in range(round((end_s - start_s) / period_s) + 1)]


def irregular(start_s: float, end_s: float, count: int) -> list[float]:
    inner = random.Random(7)
    return sorted([start_s, end_s, *(inner.uniform(start_s, end_s) for _ in range(count))])


def test_constant_power_gives_power_times_time() -> None:
    found = energy_per_query(trace(every(0.1, 0, 4), lambda t: 5000), S, 3 * S, 100)
    assert found is not None
    assert found.mj == pytest.approx(5000 * 2 / 100)
    assert found.gross_mj == found.mj
    assert found.busy_mw == pytest.approx(5000)
    assert found.std_error_mj == pytest.approx(0, abs=1e-9)
    assert (found.idle_mw, found.rail, found.window_s) == (None, "VDD_IN", 2)
    assert found.samples == 21
    assert found.method == "trapezoid rule over sysfs samples of VDD_IN"
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("start_s", "end_s"), [(1, 3), (1.0371, 2.9113), (0, 4), (1.05, 2.95)])
def test_a_ramp_is_exact_on_irregular_samples_and_between_them(
    start_s: float, end_s: float
) -> None:
    # The integral of 3000 + 700 t; straight lines between samples are that ramp itself.
    ramp = trace(irregular(0, 4, 200), lambda t: 3000 + 700 * t)
    found = energy_per_query(ramp, round(start_s * S), round(end_s * S), 7)
    expected = 3000 * (end_s - start_s) + 350 * (end_s**2 - start_s**2)
    assert found is not None
    assert found.mj == pytest.approx(expected / 7, rel=1e-6)


def test_a_curve_is_followed_as_closely_as_the_trapezoid_rule_does() -> None:
    # The integral of 6 t^2 from 1 to 3 is 52; the rule's error is h^2 (b - a) f'' / 12 = 0.02.
    curve = trace(every(0.1, 0, 4), lambda t: 6 * t * t + 1e-9)
    found = energy_per_query(curve, S, 3 * S, 1)
    assert found is not None
    assert found.mj == pytest.approx(52 + 0.1**2 * 2 * 12 / 12, rel=1e-6)


def test_a_sum_of_sample_means_would_be_wrong_where_samples_are_uneven() -> None:
    times = [*every(0.01, 0, 1), *every(0.1, 1.1, 2)]
    found = energy_per_query(trace(times, lambda t: 1000 if t <= 1 else 2000), 0, 2 * S, 1)
    assert found is not None
    assert found.mj == pytest.approx(1000 * 1 + 1500 * 0.1 + 2000 * 0.9)


def test_the_idle_baseline_is_subtracted_by_its_mean() -> None:
    run = trace(every(0.1, 0, 4), lambda t: 8000)
    idle = trace(irregular(10, 12, 60), lambda t: 3000 + 100 * (t - 11))
    found = energy_per_query(run, S, 3 * S, 50, idle)
    assert found is not None
    assert found.idle_mw == pytest.approx(3000)
    assert found.mj == pytest.approx((8000 - 3000) * 2 / 50)
    assert found.gross_mj == pytest.approx(8000 * 2 / 50)
    assert found.method.endswith(", less the mean power of the board at rest")
    assert found.std_error_mj > 0


def test_the_standard_error_is_that_of_a_mean_and_covers_as_often_as_it_should() -> None:
    # Independent noise of 400 mW on 200 samples: their mean is off by 400 / sqrt(200) mW, over 2 s.
    # Of intervals of 2.26 errors (t, 9 degrees of freedom) about 95 in 100 hold the truth.
    errors, held = [], 0
    for seed in range(100):
        noise = random.Random(seed)
        noisy = trace(every(0.01, 0, 4), lambda t, n=noise: n.gauss(5000, 400), 0.01)
        found = energy_per_query(noisy, S, 3 * S, 1)
        assert found is not None
        errors.append(found.std_error_mj)
        held += abs(found.mj - 10_000) <= 2.26 * found.std_error_mj
    assert statistics.fmean(errors) == pytest.approx(2 * 400 / math.sqrt(200), rel=0.1)
    assert 88 <= held <= 100


def test_rails_are_summed_where_there_is_no_input() -> None:
    parts = {"VDD_GPU_SOC": 3000.0, "VDD_CPU_CV": -100.0, "VIN_SYS_5V0": 4000.0}
    samples = tuple(BoardSample(round(t * S), power_mw=parts) for t in every(0.1, 0, 4))
    board = BoardTrace(samples, "sysfs", 0.1, total_rail="VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0")
    found = energy_per_query(board, S, 3 * S, 1)
    assert found is not None
    assert found.mj == pytest.approx(6900 * 2)


def test_readings_of_nothing_and_lost_sensors_are_bridged() -> None:
    samples = list(trace(every(0.1, 0, 4), lambda t: 5000).samples)
    samples[15] = BoardSample(samples[15].time_ns, power_mw={"VDD_IN": 0.0})
    samples[20] = BoardSample(samples[20].time_ns)
    found = energy_per_query(
        BoardTrace(tuple(samples), "sysfs", 0.1, total_rail="VDD_IN"), S, 3 * S, 10
    )
    assert found is not None
    assert found.mj == pytest.approx(1000)
    assert found.samples == 19


STEADY = trace(every(0.1, 0, 4), lambda t: 5000)


@pytest.mark.parametrize(
    ("board", "start", "end", "queries", "reason"),
    [
        (STEADY, S, 3 * S, 0, "there is no window with queries: 0 in 2.000 s"),
        (STEADY, 3 * S, S, 5, "there is no window with queries"),
        (BoardTrace(problem="no such sensor"), S, 3 * S, 1, "no such sensor"),
        (BoardTrace(), S, 3 * S, 1, "no sensor was read"),
        (STEADY, S, S + S // 2, 1, "holds 6 samples of VDD_IN; 10 are needed"),
        (STEADY, S, 6 * S, 1, "do not cover the window"),
        (trace(every(0.1, 2, 8), lambda t: 5000), S, 7 * S, 1, "do not cover the window"),
        (
            trace([*every(0.1, 0, 1), *every(0.1, 2, 4)], lambda t: 5000),
            0,
            4 * S,
            1,
            "have a hole of 1.000 s",
        ),
    ],
)
def test_too_little_to_tell_gives_nothing_and_the_reason(
    board: BoardTrace, start: int, end: int, queries: int, reason: str
) -> None:
    assert energy_per_query(board, start, end, queries) is None
    assert reason in missing_energy(board, start, end, queries)


def test_a_window_may_end_shortly_after_the_last_sample() -> None:
    assert energy_per_query(STEADY, S, 4 * S + S // 10, 1) is not None


def test_rails_that_do_not_tell_the_whole_are_named() -> None:
    samples = tuple(BoardSample(i, power_mw={"VDD_SOC": 1.0}) for i in range(20))
    reason = missing_energy(BoardTrace(samples, "sysfs", 0.1), 0, 19, 1)
    assert reason == "the power rails do not tell the whole: VDD_SOC"
    silent = tuple(BoardSample(i) for i in range(20))
    assert missing_energy(BoardTrace(silent, "cpu", 0.1), 0, 19, 1) == "no power rail was read"


def test_a_baseline_that_is_none_gives_no_energy() -> None:
    short = trace(every(0.1, 10, 10.5), lambda t: 3000)
    assert "the idle baseline holds 6 samples" in missing_energy(STEADY, S, 3 * S, 1, short)
    busy = trace(every(0.1, 10, 12), lambda t: 5200)
    assert "not at rest" in missing_energy(STEADY, S, 3 * S, 1, busy)
    assert energy_per_query(STEADY, S, 3 * S, 1, busy) is None
