"""Which of several queries is faster, and is it sure?

Queries take turns, so that drift of clocks and temperature hits all alike, and each round is one
comparison of neighbours in time. Counting the rounds that a query wins needs no assumption about
how times are distributed: outliers and heavy tails, which latencies have, count once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

# Runs the query once; milliseconds.
Timer = Callable[[], float]
Outcome = Literal["faster", "not faster", "undecided"]

# A challenger has to win by more than this part of the baseline's time: what is less, the next
# board or the next temperature takes away again.
MARGIN = 0.01
# How often chance may make a challenger win that is not faster by the margin, over all looks at
# the rounds and all challengers of one race.
ERROR_RATE = 0.01
# Numbers of rounds after which the race may end.
LOOKS = (16, 32, 64, 128)
# No look is waited for that queries would take longer to reach; what is undecided then has lost.
LONGEST_MS = 300_000.0

# One turn: untimed runs, since the predecessor's weights are in the caches, then timed ones, whose
# median is the round's time.
_SETTLING_RUNS = 1
_TURN_RUNS = 5
_TURN_MS = 20.0
_LONG_TURN_MS = 1000.0  # such queries are steady: few runs of them tell as much
_MOST_TURN_RUNS = 200
_WARM_UP_RUNS = 3
_WARM_UP_MS = 200.0

RULE = (
    f"another way replaces the first if it is more than {100 * MARGIN:g} % faster in so many "
    f"rounds of {LOOKS[0]} to {LOOKS[-1]} that chance would do the same in fewer than "
    f"{100 * ERROR_RATE:g} % of races (sign test on interleaved rounds, corrected for looks and "
    f"challengers; as many rounds as {LONGEST_MS / 60_000:g} minutes allow); "
    "otherwise the first stays"
)


@dataclass(frozen=True)
class Contest:
    """A challenger against the baseline.

    Attributes:
        name: The challenger.
        outcome: Whether it is faster by more than the margin; `undecided` if no look could tell.
        median_ms: Median of its rounds' times.
        ratio: Median of its time over the baseline's, round by round.
        interval: 99 % confidence interval of that median.
        wins: Rounds in which it was faster by more than the margin.
        rounds: Rounds in all.
        p_value: How likely chance gives as many wins to one that is not faster by the margin.
    """

    name: str
    outcome: Outcome
    median_ms: float
    ratio: float
    interval: tuple[float, float]
    wins: int
    rounds: int
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Turn the contest into JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Race:
    """What a race found.

    Attributes:
        winner: The fastest challenger that is surely faster than the baseline, else the baseline.
        baseline: The query to beat.
        baseline_ms: Median of its rounds' times.
        contests: Each challenger against it.
    """

    winner: str
    baseline: str
    baseline_ms: float
    contests: tuple[Contest, ...]


def race(timers: Mapping[str, Timer]) -> Race:
    """Time queries against the first of them.

    Args:
        timers: At least one; the first is the one that stays unless another is surely faster.
    """
    names = list(timers)
    baseline, *challengers = names
    spent_ms = 0.0
    for timer in timers.values():
        spent_ms += sum(_turn(timer, _WARM_UP_RUNS, _WARM_UP_MS))
    times: dict[str, list[float]] = {name: [] for name in names}
    contests: tuple[Contest, ...] = ()
    for look in LOOKS if challengers else LOOKS[:1]:
        done = len(times[baseline])
        if done and spent_ms * look / done > LONGEST_MS:
            break
        while len(times[baseline]) < look:
            for name in names:
                settling = _turn(timers[name], _SETTLING_RUNS, 0.0)
                turn = _turn(timers[name], _TURN_RUNS, _TURN_MS)
                times[name].append(statistics.median(turn))
                spent_ms += sum(settling) + sum(turn)
            names.reverse()  # who comes second is warmer: each is so every other round
        contests = tuple(
            judge(name, times[baseline], times[name], len(challengers)) for name in challengers
        )
        if all(contest.outcome != "undecided" for contest in contests):
            break
    faster = [contest for contest in contests if contest.outcome == "faster"]
    winner = min(faster, key=lambda contest: contest.ratio).name if faster else baseline
    return Race(winner, baseline, statistics.median(times[baseline]), contests)


def judge(
    name: str, baseline: Sequence[float], challenger: Sequence[float], challengers: int = 1
) -> Contest:
    """Compare the rounds of two queries.

    Args:
        name: The challenger.
        baseline: Its opponent's times, round by round.
        challenger: Its own times in the same rounds.
        challengers: How many there are in the race.
    """
    ratios = [mine / other for mine, other in zip(challenger, baseline, strict=True)]
    rounds = len(ratios)
    wins = sum(ratio < 1 - MARGIN for ratio in ratios)
    level = ERROR_RATE / (len(LOOKS) * challengers)
    p_value = sign_test(wins, rounds)
    outcome: Outcome = "undecided"
    if p_value <= level:
        outcome = "faster"
    elif sign_test(rounds - wins, rounds) <= level:
        outcome = "not faster"
    return Contest(
        name,
        outcome,
        statistics.median(challenger),
        statistics.median(ratios),
        median_interval(ratios),
        wins,
        rounds,
        p_value,
    )


def sign_test(wins: int, rounds: int) -> float:
    """Tell how likely a fair coin shows at least so many heads."""
    return sum(math.comb(rounds, k) for k in range(wins, rounds + 1)) / 2**rounds


def median_interval(values: Sequence[float], confidence: float = 0.99) -> tuple[float, float]:
    """Find the confidence interval of a median from the order of the values alone.

    Args:
        values: Independent; of any distribution.
        confidence: Least probability that the interval holds the median.

    Returns:
        Two of the values; the smallest and the largest where there are too few for more.

    References:
        Conover, Practical Nonparametric Statistics, 3.2: ranks by the binomial distribution.
    """
    ordered, count = sorted(values), len(values)
    below, rank = 0.0, 0
    while rank < count // 2:
        below += math.comb(count, rank) / 2**count
        if below > (1 - confidence) / 2:
            break
        rank += 1
    first = max(rank - 1, 0)
    return ordered[first], ordered[count - 1 - first]


def _turn(timer: Timer, runs: int, least_ms: float) -> list[float]:
    """Run a query until both the number and the time are reached, or a long time alone."""
    times: list[float] = []
    while not times or (
        sum(times) < _LONG_TURN_MS
        and (len(times) < runs or (sum(times) < least_ms and len(times) < _MOST_TURN_RUNS))
    ):
        times.append(timer())
    return times
