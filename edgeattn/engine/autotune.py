"""Several engines of one graph compete: what is not the graph is out, the surely fastest is kept.

A user is never slower for having used the toolkit, and never silently wrong: an engine whose
outputs are not the graph's is out of the race, whatever its speed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeattn.engine.base import BoundQuery, Engine, TimedQuery
from edgeattn.engine.race import RULE, Contest, Race, Timer, race
from edgeattn.engine.reference import Expected, distance
from edgeattn.engine.variants import Variant
from edgeattn.errors import BuildError, EdgeAttnError, EngineError, GraphError, PluginError

Progress = Callable[[int, "int | None", str], None]
Time = Callable[[BoundQuery], float]
Built = TypeVar("Built")

# What can go wrong with one engine while another works. A missing package fails them all.
_FAILURES = (BuildError, EngineError, GraphError, PluginError)

NOTHING_TO_CHOOSE = "there was nothing to choose: the graph becomes an engine in one form alone"


@dataclass(frozen=True)
class Candidate:
    """One engine that may be the fastest.

    Attributes:
        name: What users are told it is.
        variant: The form of the graph.
        way: What computes its attention nodes: `plugin`, `native` (standard operators) or
            `attention` (ONNX's Attention).
    """

    name: str
    variant: Variant
    way: str


@dataclass(frozen=True)
class Question:
    """What every engine is asked, and what it has to answer.

    Attributes:
        inputs: Inputs by name.
        expected: What the graph as it was given computes; `None` where the CPU cannot run it.
        precisions: What rounds there, and in the engines: keys of `reference.FLOORS`.
    """

    inputs: Mapping[str, NDArray[Any]]
    expected: Expected | None = None
    precisions: Sequence[str] = ()

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shapes of the inputs, as JSON values."""
        return {name: list(array.shape) for name, array in self.inputs.items()}


@dataclass(frozen=True)
class Figures:
    """What a build tells of its engine.

    Attributes:
        build_seconds: Time of the build, where it takes any.
        plan_bytes: Size of the engine.
        device_memory_bytes: Its working memory on a device, if it has one.
        faults: What it would not compute as the graph says.
    """

    build_seconds: float | None = None
    plan_bytes: int | None = None
    device_memory_bytes: int | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class WayResult:
    """What became of one candidate.

    Attributes:
        name: Its name.
        variant: Name of the form of the graph.
        way: What computes its attention nodes.
        outcome: `won`; `lost`; `failed`, to build, to open or to compute the graph; or `not tried`.
        reason: Why, in words.
        median_ms: Median time of a query; `None` if it was not timed.
        contest: How it did against the first; `None` for the first itself, or if it failed.
        figures: What its build told; empty if that failed.
    """

    name: str
    variant: str
    way: str
    outcome: Literal["won", "lost", "failed", "not tried"]
    reason: str
    median_ms: float | None = None
    contest: Contest | None = None
    figures: Figures = field(default_factory=Figures)

    def to_dict(self) -> dict[str, Any]:
        """Turn the result into JSON values."""
        names = ("name", "variant", "way", "outcome", "reason", "median_ms")
        figures = vars(self.figures) | {"faults": list(self.figures.faults)}
        contest = self.contest.to_dict() if self.contest else None
        return {name: getattr(self, name) for name in names} | {"contest": contest} | figures


@dataclass(frozen=True)
class Autotuned(Generic[Built]):
    """The engine to keep, and how it was found.

    Attributes:
        winner: The candidate to keep.
        built: What its build gave.
        losers: What the builds of the others gave.
        ways: What became of each candidate, the preferred first.
        shapes: Shapes of the inputs that they were timed with; empty if nothing was timed.
    """

    winner: Candidate
    built: Built
    losers: tuple[Built, ...]
    ways: tuple[WayResult, ...]
    shapes: Mapping[str, list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Turn the result into JSON values."""
        return _report(self.winner.name, self.ways, self.shapes)


def planned(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Say what would be tried, in the form of `Autotuned.to_dict`."""
    reason = "a dry run times nothing" if len(candidates) > 1 else NOTHING_TO_CHOOSE
    ways = [WayResult(c.name, c.variant.name, c.way, "not tried", reason) for c in candidates]
    return _report(None, ways, {})


def _report(
    winner: str | None, ways: Iterable[WayResult], shapes: Mapping[str, list[int]]
) -> dict[str, Any]:
    return {
        "winner": winner,
        "rule": RULE,
        "shapes": dict(shapes),
        "ways": [way.to_dict() for way in ways],
    }


def autotune_lines(report: Mapping[str, Any]) -> list[str]:
    """Say it in words, one line for each candidate.

    Args:
        report: What `Autotuned.to_dict` or `planned` tells; a manifest has it as `autotune`.
    """
    return [
        f"attention {way.get('name', way['way'])}: {way['outcome']}, {way['reason']}"
        for way in report["ways"]
    ]


def compete(
    candidates: Sequence[Candidate],
    build: Callable[[Candidate, Progress | None], Built],
    open_engine: Callable[[Built], AbstractContextManager[Engine]],
    ask: Callable[[], Question],
    figures: Callable[[Built], Figures],
    *,
    time_query: Time | None = None,
    progress: Progress | None = None,
) -> Autotuned[Built]:
    """Build each candidate, check what it computes, time them by turns and keep the fastest.

    All engines are open at the same time and take turns on the same inputs. A candidate that cannot
    be built or opened, or whose outputs are not within tolerance of what the CPU computes, is
    reported with the reason, and another one wins. One candidate alone is built and nothing else.

    Args:
        candidates: At least one; the first stays unless another is surely faster.
        build: Builds one.
        open_engine: Opens what was built, as it would run later.
        ask: Gives what all are asked.
        figures: Tells what is known of what was built.
        time_query: Runs a query once and tells its milliseconds; by default `query_ms`.
        progress: Called with steps done, steps in all, and the step at hand.

    Raises:
        BuildError: If every candidate fails; the message has the reasons.
        EdgeAttnError: What every build fails with, if that is one and the same.
    """
    built: dict[str, Built] = {}
    failures: dict[str, EdgeAttnError] = {}
    for candidate in candidates:
        try:
            built[candidate.name] = build(candidate, _prefixed(progress, candidate.name))
        except _FAILURES as err:
            failures[candidate.name] = err
    if progress is not None:
        progress(len(candidates), len(candidates) + 1, "time the engines in turns")
    found, shapes = None, dict[str, list[int]]()
    if len(built) > 1:
        question = ask()
        shapes = question.shapes
        found = _race(built, failures, open_engine, question, time_query or query_ms)
    kept = [candidate for candidate in candidates if candidate.name not in failures]
    if not kept:
        raise _all_failed(failures, is_built=bool(built))
    winner = next((c for c in kept if found and c.name == found.winner), kept[0])
    results = []
    for candidate in candidates:
        name = candidate.name
        told = figures(built[name]) if name in built else Figures()
        results.append(_result(candidate, candidates, winner.name, failures.get(name), found, told))
    losers = tuple(each for name, each in built.items() if name != winner.name)
    return Autotuned(winner, built[winner.name], losers, tuple(results), shapes)


def query_ms(query: BoundQuery) -> float:
    """Run a query once: milliseconds of its copies and computation, else of the call."""
    if isinstance(query, TimedQuery):
        times = query.timed()
        copies = times.end_h2d_ns - times.start_h2d_ns + times.end_d2h_ns - times.start_d2h_ns
        return (copies + times.end_compute_ns - times.start_compute_ns) / 1e6
    start = time.perf_counter_ns()
    query()
    return (time.perf_counter_ns() - start) / 1e6


def _prefixed(progress: Progress | None, name: str) -> Progress | None:
    """Let a build report its progress under its own name."""
    if progress is None:
        return None
    report = progress
    report(0, None, f"attention {name}: lower")
    return lambda done, total, what: report(done, total, f"attention {name}: {what}")


def _race(
    built: Mapping[str, Built],
    failures: dict[str, EdgeAttnError],
    open_engine: Callable[[Built], AbstractContextManager[Engine]],
    question: Question,
    time_query: Time,
) -> Race | None:
    """Open the engines, check what they compute and race those that are right."""
    timers: dict[str, Timer] = {}
    with contextlib.ExitStack() as stack:
        for name, engine in built.items():
            try:
                query = stack.enter_context(open_engine(engine)).bind(question.inputs)
                query()
                _check_outputs(query.outputs(), question)
            except _FAILURES as err:
                failures[name] = err
                continue
            timers[name] = _timer(query, time_query)
        return race(timers) if timers else None


def _timer(query: BoundQuery, time_query: Time) -> Timer:
    return lambda: time_query(query)


def _check_outputs(outputs: Mapping[str, NDArray[Any]], question: Question) -> None:
    """Refuse outputs that are not the graph's.

    Raises:
        EngineError: If one is out of tolerance.
    """
    expected = question.expected
    if expected is None:
        return
    for name, exact in expected.exact.items():
        bound = expected.tolerance(name, question.precisions)
        found = distance(exact, np.asarray(outputs[name]))
        if not found.fits(bound):
            raise EngineError(
                f"its output {name} is {found} from what the graph computes; allowed are {bound}"
            )


def _result(
    candidate: Candidate,
    candidates: Sequence[Candidate],
    winner: str,
    failure: EdgeAttnError | None,
    found: Race | None,
    figures: Figures,
) -> WayResult:
    name = candidate.name
    named = (name, candidate.variant.name, candidate.way)
    if failure is not None:
        return WayResult(*named, "failed", failure.message, figures=figures)
    contest = next((c for c in found.contests if c.name == name), None) if found else None
    median = contest.median_ms if contest else (found.baseline_ms if found else None)
    if len(candidates) == 1:
        reason = NOTHING_TO_CHOOSE
    elif found is None or not found.contests:
        reason = "the only one that works"
    else:
        reason = _sentence(name, winner, contest, found)
    outcome: Literal["won", "lost"] = "won" if name == winner else "lost"
    return WayResult(*named, outcome, reason, median, contest, figures)


def _sentence(name: str, winner: str, contest: Contest | None, found: Race) -> str:
    if contest is None:
        kept = "no other is surely faster" if name == winner else f"{winner} is surely faster"
        return f"{found.baseline_ms:.4g} ms, {kept}"
    low, high = contest.interval
    verdict = {
        "faster": "surely faster",
        "not faster": "not faster by the margin",
        "undecided": "too close to tell",
    }[contest.outcome]
    if contest.outcome == "faster" and name != winner:
        verdict += f", but {winner} is faster still"
    return (
        f"{contest.median_ms:.4g} ms, {contest.ratio:.3f} times that of {found.baseline} "
        f"({low:.3f} to {high:.3f}), ahead in {contest.wins} of {contest.rounds} rounds: {verdict}"
    )


def _all_failed(failures: Mapping[str, EdgeAttnError], *, is_built: bool) -> EdgeAttnError:
    """Tell every reason; where no build succeeds for one and the same, that is the failure."""
    if not is_built and len({err.message for err in failures.values()}) == 1:
        return next(iter(failures.values()))
    reasons = "; ".join(f"{name}: {err.message}" for name, err in failures.items())
    hints = [err.hint for err in failures.values() if err.hint]
    return BuildError(f"attention can be built in no way: {reasons}", hints[0] if hints else "")
