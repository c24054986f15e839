"""Racing queries: the right one wins under noise, drift and outliers, and equal ones are a tie."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgeattn.engine import race as race_module
from edgeattn.engine.race import (
    ERROR_RATE,
    LONGEST_MS,
    LOOKS,
    MARGIN,
    RULE,
    judge,
    median_interval,
    race,
    sign_test,
)

Noise = Callable[[float], float]


class Machine:
    """A machine with a deterministic clock, on which queries take planted times.

    Args:
        noise: Makes the time of a run from the time it is given at; 1 is undisturbed.
    """

    def __init__(self, noise: Noise = lambda now: 1.0) -> None:
        self.now_ms = 0.0
        self.runs: list[str] = []
        self._noise = noise

    def timer(self, name: str, takes_ms: float) -> Callable[[], float]:
        def run() -> float:
            elapsed = takes_ms * self._noise(self.now_ms)
            self.now_ms += elapsed
            self.runs.append(name)
            return elapsed

        return run

    def race(self, **takes_ms: float) -> race_module.Race:
        return race({name: self.timer(name, takes) for name, takes in takes_ms.items()})


def lognormal(seed: int, sigma: float) -> Noise:
    rng = np.random.default_rng(seed)
    return lambda now: float(np.exp(sigma * rng.standard_normal()))


def test_without_noise_the_faster_one_wins_at_the_first_look() -> None:
    found = Machine().race(plugin=5.0, native=4.5)
    (contest,) = found.contests
    assert (found.winner, contest.outcome) == ("native", "faster")
    assert (contest.wins, contest.rounds) == (LOOKS[0], LOOKS[0])
    assert (found.baseline, found.baseline_ms) == ("plugin", 5.0)
    assert contest.median_ms == 4.5
    assert contest.ratio == pytest.approx(0.9)
    assert contest.interval == pytest.approx((0.9, 0.9))
    assert contest.p_value == 2.0 ** -LOOKS[0]


@pytest.mark.parametrize("native", [5.0, 5.5, 4.96])
def test_equal_slower_and_hardly_faster_ones_leave_the_first_in_place(native: float) -> None:
    found = Machine().race(plugin=5.0, native=native)
    assert (found.winner, found.contests[0].outcome) == ("plugin", "not faster")


def test_a_gain_of_a_twentieth_is_found_under_noise_of_a_tenth() -> None:
    for seed in range(20):
        machine = Machine(lognormal(seed, 0.1))
        assert machine.race(plugin=5.0, native=4.75).winner == "native"


def test_a_gain_is_found_under_drift_as_large_as_itself() -> None:
    """Clocks fall by a tenth a second, as on a board that gets hot."""
    machine = Machine(lambda now: 1 + 0.1 * now / 1000)
    found = machine.race(plugin=5.0, native=4.5)
    assert found.winner == "native"
    assert found.contests[0].ratio == pytest.approx(0.9, abs=0.02)


def test_drift_makes_no_winner_of_equal_ones() -> None:
    for slope in (-0.02, 0.05, 0.1):
        machine = Machine(lambda now, slope=slope: math.exp(slope * now / 1000))
        assert machine.race(plugin=5.0, native=5.0).winner == "plugin"


def test_a_step_in_the_clocks_makes_no_winner_of_equal_ones() -> None:
    machine = Machine(lambda now: 1.0 if now < 1500 else 0.5)
    assert machine.race(plugin=5.0, native=5.0).winner == "plugin"


def test_outliers_neither_hide_a_gain_nor_make_one() -> None:
    def spikes(seed: int) -> Noise:
        rng = np.random.default_rng(seed)
        return lambda now: 40.0 if rng.random() < 0.05 else float(rng.uniform(0.99, 1.01))

    for seed in range(10):
        assert Machine(spikes(seed)).race(plugin=5.0, native=4.6).winner == "native"
        assert Machine(spikes(seed)).race(plugin=5.0, native=5.0).winner == "plugin"


def test_a_gain_is_found_though_every_turn_has_outliers() -> None:
    """A mean over the runs of a turn would hide it."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        machine = Machine(lambda now, rng=rng: 40.0 if rng.random() < 0.2 else 1.0)
        found = machine.race(plugin=5.0, native=4.6)
        assert (found.winner, found.baseline_ms) == ("native", 5.0)


def test_outliers_of_the_baseline_alone_do_not_dethrone_it() -> None:
    rng = np.random.default_rng(0)
    machine = Machine()
    native = machine.timer("native", 5.0)

    def plugin() -> float:
        return 200.0 if rng.random() < 0.1 else 5.0

    found = race({"plugin": plugin, "native": native})
    assert (found.winner, found.baseline_ms) == ("plugin", 5.0)


@pytest.mark.parametrize("challengers", [1, 2])
def test_chance_makes_a_winner_more_rarely_than_the_rule_says(challengers: int) -> None:
    """The worst case that the rule allows: challengers faster by just the margin."""
    rng = np.random.default_rng(17)
    races, false = 3000, 0
    for _ in range(races):
        done = False
        times = rng.lognormal(0.0, 0.05, (LOOKS[-1], 1 + challengers))
        times[:, 1:] *= 1 - MARGIN
        for look in LOOKS:
            contests = [
                judge("native", times[:look, 0].tolist(), times[:look, 1 + c].tolist(), challengers)
                for c in range(challengers)
            ]
            false += not done and any(contest.outcome == "faster" for contest in contests)
            done = done or all(contest.outcome != "undecided" for contest in contests)
    assert false / races <= ERROR_RATE


def test_the_fastest_of_several_winners_is_kept() -> None:
    found = Machine(lognormal(3, 0.02)).race(plugin=5.0, native=4.5, attention=4.0)
    assert found.winner == "attention"
    assert [contest.outcome for contest in found.contests] == ["faster", "faster"]
    assert Machine().race(plugin=5.0, native=4.0, attention=5.2).winner == "native"


def test_one_query_is_timed_and_wins() -> None:
    found = Machine().race(native=3.0)
    assert (found.winner, found.baseline_ms, found.contests) == ("native", 3.0, ())


def test_rounds_are_interleaved_and_their_order_alternates() -> None:
    machine = Machine()
    machine.race(plugin=30.0, native=20.0)
    runs = machine.runs
    turns = [name for i, name in enumerate(runs) if i == 0 or runs[i - 1] != name]
    assert turns[:2] == ["plugin", "native"]  # warming up
    # Neighbouring turns of one query merge where the order turns round.
    assert turns[2:8] == ["plugin", "native", "plugin", "native", "plugin", "native"]
    assert all(count == 2 * (1 + 5) for count in _lengths(runs)[4:-1])


def _lengths(runs: list[str]) -> list[int]:
    changes = [i for i in range(1, len(runs)) if runs[i] != runs[i - 1]]
    return np.diff([0, *changes, len(runs)]).tolist()


def test_a_turn_of_a_short_query_takes_twenty_milliseconds() -> None:
    machine = Machine()
    machine.race(plugin=1.0, native=2.0)
    # Two turns each, where the order turns round.
    assert set(_lengths(machine.runs)[3:-1]) == {2 * (1 + 20), 2 * (1 + 10)}


def test_a_clock_that_stands_still_ends_the_race_all_the_same() -> None:
    timers = {"plugin": lambda: 1e-9, "native": lambda: 1e-9}
    assert race(timers).winner == "plugin"


def test_too_close_to_tell_is_said_after_the_last_look() -> None:
    at_margin = iter_ratio([0.985, 0.995])
    found = race({"plugin": lambda: 100.0, "native": lambda: 100 * next(at_margin)})
    (contest,) = found.contests
    assert (found.winner, contest.outcome, contest.rounds) == ("plugin", "undecided", LOOKS[-1])


def iter_ratio(ratios: list[float]) -> Iterator[float]:
    """Give each ratio for a whole turn: the runs of the warm-up, then six runs a round."""
    yield from [1.0] * 3
    while True:
        for ratio in ratios:
            yield from [ratio] * 6


def test_a_query_of_seconds_runs_once_a_turn() -> None:
    machine = Machine()
    assert machine.race(plugin=2000.0, native=1500.0).winner == "native"
    for name in ("plugin", "native"):
        assert machine.runs.count(name) == 1 + 2 * LOOKS[0]  # warming up, settling, timed


@pytest.mark.parametrize(("takes_ms", "rounds"), [(2000.0, 32), (3000.0, 16), (20_000.0, 16)])
def test_a_race_that_would_take_long_ends_undecided_with_the_first_in_place(
    takes_ms: float, rounds: int
) -> None:
    ratios = itertools.cycle([0.9, 0.9, 1.1, 1.1])  # the settling run and the timed one
    found = race({"plugin": lambda: takes_ms, "native": lambda: takes_ms * next(ratios)})
    (contest,) = found.contests
    assert (found.winner, contest.outcome, contest.rounds) == ("plugin", "undecided", rounds)
    assert rounds == LOOKS[0] or rounds * 4 * takes_ms < LONGEST_MS


def test_the_sign_test_counts_coins() -> None:
    assert sign_test(0, 5) == 1.0
    assert sign_test(5, 5) == 1 / 32
    assert sign_test(4, 5) == 6 / 32
    assert sign_test(16, 16) == 2.0**-16


@pytest.mark.parametrize("count", [1, 2, 7, 16, 64, 128])
def test_the_interval_holds_the_median_as_often_as_it_says(count: int) -> None:
    rng = np.random.default_rng(count)
    held = 0
    for _ in range(2000):
        low, high = median_interval(rng.standard_cauchy(count).tolist())
        held += low <= 0 <= high
    least = 1 - 2 * 0.5**count  # the whole range
    assert held / 2000 >= min(0.99, least) - 0.03


def test_the_interval_of_many_is_narrower_than_their_range() -> None:
    values = list(range(128))
    low, high = median_interval(values)
    assert 40 < low < 63
    assert 64 < high < 88
    assert low + high == 127


def test_a_contest_is_json_and_the_rule_states_its_numbers() -> None:
    contest = Machine().race(plugin=5.0, native=4.0).contests[0]
    assert json.loads(json.dumps(contest.to_dict()))["ratio"] == pytest.approx(0.8)
    assert "1 %" in RULE
    assert "16 to 128" in RULE
