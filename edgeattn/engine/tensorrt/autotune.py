"""Our plugin or TensorRT's own attention? Build both, time both, keep the faster.

A user is never slower for having used the toolkit, and never silently wrong: a way whose outputs
are not the graph's is out of the race, whatever its speed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeattn.artifacts import Manifest
from edgeattn.calibration.random_samples import random_array
from edgeattn.engine.base import BoundQuery, Engine, TimedQuery
from edgeattn.engine.reference import Expected, Reference, distance
from edgeattn.engine.tensorrt.log import CapturedLog
from edgeattn.engine.tensorrt.lowering import AttentionWay, LoweredForTensorRt, lower_for_tensorrt
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.engine.tensorrt.profiles import resolve_profiles
from edgeattn.engine.tensorrt.race import RULE, Contest, Race, Timer, race
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import BuildError, EdgeAttnError, EngineError, GraphError, PluginError
from edgeattn.graph.files import input_specs
from edgeattn.graph.op import attention_nodes

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.build import TensorRtBuild

Progress = Callable[[int, "int | None", str], None]
Build = Callable[
    [LoweredForTensorRt, TensorRtOptions, Path, "Progress | None", "CapturedLog | None"],
    "TensorRtBuild",
]
Open = Callable[
    ["TensorRtBuild", LoweredForTensorRt, TensorRtOptions], AbstractContextManager[Engine]
]
Time = Callable[[BoundQuery], float]

# What can go wrong with one way while another works. A missing TensorRT fails them all.
_FAILURES = (BuildError, EngineError, GraphError, PluginError)


@dataclass(frozen=True)
class WayResult:
    """What became of one way.

    Attributes:
        way: The way.
        outcome: `won`; `lost`; or `failed`, to build, to open or to compute the graph.
        reason: Why, in words.
        median_ms: Median time of a query; `None` if it failed.
        contest: How it did against the first; `None` for the first itself, or if it failed.
        build_seconds: Time of its build; `None` if that failed.
        plan_bytes: Size of its engine, likewise.
        device_memory_bytes: Working memory of its engine, likewise.
        faults: What TensorRT would not compute as the graph says.
    """

    way: AttentionWay
    outcome: Literal["won", "lost", "failed"]
    reason: str
    median_ms: float | None = None
    contest: Contest | None = None
    build_seconds: float | None = None
    plan_bytes: int | None = None
    device_memory_bytes: int | None = None
    faults: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Turn the result into JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        contest = self.contest.to_dict() if self.contest else None
        return values | {"contest": contest, "faults": list(self.faults)}


@dataclass(frozen=True)
class AutotuneResult:
    """The way to keep, and how it was found.

    Attributes:
        build: The engine of the winner.
        lowered: Its graph.
        ways: Every way that was tried, in the order of preference.
    """

    build: TensorRtBuild
    lowered: LoweredForTensorRt
    ways: tuple[WayResult, ...]

    @property
    def winner(self) -> AttentionWay:
        """The way to keep."""
        return self.lowered.way

    def to_dict(self) -> dict[str, Any]:
        """Turn the result into JSON values."""
        ways = [way.to_dict() for way in self.ways]
        return {"winner": self.winner, "rule": RULE, "ways": ways}

    def lines(self) -> list[str]:
        """Say it in words, one line for each way."""
        return [f"attention {way.way}: {way.outcome}, {way.reason}" for way in self.ways]


def attention_ways(model: onnx.ModelProto, version: TensorRtVersion) -> tuple[AttentionWay, ...]:
    """List the ways to try, the preferred first: where two are equally fast, the first is kept."""
    if not attention_nodes(model):
        return ("native",)
    return ("plugin", "native", *(("attention",) if version.has_attention_operator else ()))


def build_way(
    lowered: LoweredForTensorRt,
    options: TensorRtOptions,
    plan: Path,
    progress: Progress | None,
    log: CapturedLog | None,
) -> TensorRtBuild:
    """Build one way with TensorRT."""
    from edgeattn.engine.tensorrt.build import build_plan

    return build_plan(lowered, options, plan, progress=progress, log=log)


def open_way(
    built: TensorRtBuild, lowered: LoweredForTensorRt, options: TensorRtOptions
) -> AbstractContextManager[Engine]:
    """Open what was built, as it would run later."""
    from edgeattn.engine.tensorrt.run import TensorRtEngine

    plugins = built.used_plugin_libraries
    return TensorRtEngine(
        built.plan,
        Manifest("engine", target="tensorrt", options={"tensorrt": options.to_dict()}),
        plugin=plugins[0] if plugins else None,
        device=options.device,
    )


def time_query(query: BoundQuery) -> float:
    """Run a query once: milliseconds of its copies and computation, else of the call."""
    if isinstance(query, TimedQuery):
        times = query.timed()
        copies = times.end_h2d_ns - times.start_h2d_ns + times.end_d2h_ns - times.start_d2h_ns
        return (copies + times.end_compute_ns - times.start_compute_ns) / 1e6
    start = time.perf_counter_ns()
    query()
    return (time.perf_counter_ns() - start) / 1e6


def autotune_attention(
    model: onnx.ModelProto,
    options: TensorRtOptions,
    folder: Path,
    *,
    version: TensorRtVersion,
    progress: Progress | None = None,
    log: CapturedLog | None = None,
    build: Build = build_way,
    open_engine: Open = open_way,
    time_query: Time = time_query,
) -> AutotuneResult:
    """Build a graph with attention in each way, and keep the fastest that is right.

    All engines are open at the same time and take turns on the same inputs, of the first profile's
    optimal shapes. A way that cannot be built or opened, or whose outputs are not within tolerance
    of what the CPU computes, is reported with the reason, and another one wins.

    Args:
        model: The typed graph.
        options: Options of the builds.
        folder: Where the engines go; the winner's stays there.
        version: The TensorRT at hand.
        progress: Called with steps done, steps in all, and the step at hand.
        log: What TensorRT says is added to it.
        build: Builds one way.
        open_engine: Opens what was built.
        time_query: Runs a query once and tells its milliseconds.

    Raises:
        BuildError: If every way fails; the message has the reasons.
        MissingDependencyError: If TensorRT is not installed.
    """
    ways = attention_ways(model, version)
    built: dict[AttentionWay, tuple[LoweredForTensorRt, TensorRtBuild]] = {}
    failures: dict[AttentionWay, EdgeAttnError] = {}
    for way in ways:
        report = None
        if progress is not None:
            report = _prefixed(progress, way)
            report(0, None, "lower")
        try:
            lowered = lower_for_tensorrt(model, version, way=way)
            plan = folder / f"{way}.plan"
            built[way] = lowered, build(lowered, options, plan, report, log)
        except _FAILURES as err:
            failures[way] = err
    if progress is not None:
        progress(len(ways), len(ways) + 1, "time the ways in turns")
    found = None
    if len(built) > 1:
        found = _time(model, options, built, failures, open_engine, time_query)
    kept = [way for way in ways if way not in failures]
    if not kept:
        raise _all_failed(failures)
    winner = found.winner if found and found.winner in kept else kept[0]
    results = tuple(_result(way, ways, winner, built, failures, found) for way in ways)
    for way, (_, loser) in built.items():
        if way != winner:
            loser.plan.unlink(missing_ok=True)
    lowered, engine = next(pair for way, pair in built.items() if way == winner)
    return AutotuneResult(engine, lowered, results)


def _prefixed(progress: Progress, way: AttentionWay) -> Progress:
    return lambda done, total, what: progress(done, total, f"attention {way}: {what}")


def _time(
    model: onnx.ModelProto,
    options: TensorRtOptions,
    built: Mapping[AttentionWay, tuple[LoweredForTensorRt, TensorRtBuild]],
    failures: dict[AttentionWay, EdgeAttnError],
    open_engine: Open,
    time_query: Time,
) -> Race | None:
    """Open the engines, check what they compute and race those that are right."""
    inputs = _inputs(model, options)
    expected, precisions = _expected(model, inputs, options)
    timers: dict[str, Timer] = {}
    with contextlib.ExitStack() as stack:
        for way, (lowered, engine) in built.items():
            try:
                opened = stack.enter_context(open_engine(engine, lowered, options))
                query = opened.bind(inputs)
                query()
                _check_outputs(query.outputs(), expected, precisions)
            except _FAILURES as err:
                failures[way] = err
                continue
            timers[way] = _timer(query, time_query)
        return race(timers) if timers else None


def _timer(query: BoundQuery, time_query: Time) -> Timer:
    return lambda: time_query(query)


def _inputs(model: onnx.ModelProto, options: TensorRtOptions) -> dict[str, NDArray[Any]]:
    """Draw inputs of the shapes that the engines are tuned for."""
    specs = input_specs(model)
    (profile, *_) = resolve_profiles(options, specs)
    rng = np.random.default_rng(0)
    return {spec.name: random_array(spec, tuple(profile.opt[spec.name]), rng) for spec in specs}


def _expected(
    model: onnx.ModelProto, inputs: Mapping[str, NDArray[Any]], options: TensorRtOptions
) -> tuple[Expected | None, list[str]]:
    """Compute on the CPU what should come out; `None` where it cannot run the graph."""
    try:
        with Reference(model) as reference:
            precisions = list(reference.precisions)
            if options.implicit_int8 is not None:
                precisions.append("int8")
            elif precisions == ["fp32"] and options.tf32:
                precisions = ["tf32"]
            return reference.run(inputs), precisions
    except EngineError:
        return None, []


def _check_outputs(
    outputs: Mapping[str, NDArray[Any]], expected: Expected | None, precisions: list[str]
) -> None:
    """Refuse outputs that are not the graph's.

    Raises:
        EngineError: If one is out of tolerance.
    """
    if expected is None:
        return
    for name, exact in expected.exact.items():
        bound = expected.tolerance(name, precisions)
        found = distance(exact, outputs[name])
        if not found.fits(bound):
            raise EngineError(
                f"its output {name} is {found} from what the graph computes; allowed are {bound}"
            )


def _result(
    way: AttentionWay,
    ways: tuple[AttentionWay, ...],
    winner: AttentionWay,
    built: Mapping[AttentionWay, tuple[LoweredForTensorRt, TensorRtBuild]],
    failures: Mapping[AttentionWay, EdgeAttnError],
    found: Race | None,
) -> WayResult:
    figures: dict[str, Any] = {}
    if way in built:
        lowered, engine = built[way]
        figures = {
            "build_seconds": engine.seconds,
            "plan_bytes": engine.plan_bytes,
            "device_memory_bytes": engine.device_memory_bytes,
            "faults": lowered.faults,
        }
    if way in failures:
        return WayResult(way, "failed", failures[way].message, **figures)
    contest = next((c for c in found.contests if c.name == way), None) if found else None
    median = contest.median_ms if contest else (found.baseline_ms if found else None)
    outcome: Literal["won", "lost"] = "won" if way == winner else "lost"
    if len(ways) == 1:
        reason = "the graph has no attention node, so there is nothing to choose"
    elif found is None or not found.contests:
        reason = "the only way that works"
    else:
        reason = _sentence(way, winner, contest, found)
    return WayResult(way, outcome, reason, median, contest, **figures)


def _sentence(way: AttentionWay, winner: AttentionWay, contest: Contest | None, found: Race) -> str:
    if contest is None:
        kept = "no other way is surely faster" if way == winner else f"{winner} is surely faster"
        return f"{found.baseline_ms:.4g} ms, {kept}"
    low, high = contest.interval
    verdict = {
        "faster": "surely faster",
        "not faster": "not faster by the margin",
        "undecided": "too close to tell",
    }[contest.outcome]
    if contest.outcome == "faster" and way != winner:
        verdict += f", but {winner} is faster still"
    return (
        f"{contest.median_ms:.4g} ms, {contest.ratio:.3f} times that of {found.baseline} "
        f"({low:.3f} to {high:.3f}), ahead in {contest.wins} of {contest.rounds} rounds: {verdict}"
    )


def _all_failed(failures: Mapping[AttentionWay, EdgeAttnError]) -> BuildError:
    reasons = "; ".join(f"{way}: {err.message}" for way, err in failures.items())
    hints = [err.hint for err in failures.values() if err.hint]
    return BuildError(f"attention can be built in no way: {reasons}", hints[0] if hints else "")
