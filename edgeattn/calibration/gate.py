"""The accuracy gate: find the fewest layers to keep in float so that a goal is met.

Layers are freed of INT8 in the order of what each costs alone, as many as the goal takes; then
those that turn out to be superfluous go back to INT8. One half of the samples is searched on, the
other must meet the goal too.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from edgeattn.calibration.labelled import LabelledSamples
from edgeattn.calibration.sensitivity import Figures, NodeTrials, quantized_nodes
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import AccuracyError, DataError, SpecError, TableError
from edgeattn.graph.compare import finite_or_none
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import Recipe

# With fewer there is nothing to hold out.
LEAST_SAMPLES = 16
# For the order, which needs no labels.
RANKING_SAMPLES = 32

Make = Callable[[Collection[str]], onnx.ModelProto]
Progress = Callable[[int, "int | None", str], None]


@dataclass(frozen=True)
class Goal:
    """What a quantized graph must reach; exactly one of the two.

    Attributes:
        min_sqnr: Least output SQNR, in dB.
        max_drop: Most percentage points of top-1 to lose against the float graph.

    Raises:
        SpecError: If none or both are given, or one is out of range.
    """

    min_sqnr: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if (self.min_sqnr is None) == (self.max_drop is None):
            raise SpecError("a goal is either min_sqnr or max_drop", "give one of them")
        value = self.min_sqnr if self.max_drop is None else self.max_drop
        if value is None or not math.isfinite(value) or (self.max_drop or 0) < 0:
            raise SpecError(
                f"the goal is {self}; expected a finite number, and of points no negative one",
                "give min_sqnr in dB, such as 30, or max_drop in points, such as 0.3",
            )

    @property
    def name(self) -> str:
        """The option that sets it."""
        return "min_sqnr" if self.max_drop is None else "max_drop"

    def __str__(self) -> str:
        """Spell the goal as the command line does."""
        if self.max_drop is None:
            return f"min_sqnr {self.min_sqnr:g} dB"
        return f"max_drop {self.max_drop:g} points"

    def excess(self, figures: Figures, of_float: Figures) -> float:
        """Say by how much the goal is surpassed; negative if it is missed."""
        if self.min_sqnr is not None:
            return figures.sqnr_db - self.min_sqnr
        assert self.max_drop is not None
        return self.max_drop - _drop(figures, of_float)


@dataclass(frozen=True)
class GateResult:
    """What the search found.

    Attributes:
        keep_float: Nodes to keep in float: the fewest that meet the goal, or those of the best
            graph found if none does.
        met: Whether the goal is met on all samples that it was judged on.
        report: Entry for the manifest; JSON values.
    """

    keep_float: tuple[str, ...]
    met: bool
    report: dict[str, Any]

    def check(self, output: Path) -> None:
        """Refuse to call a missed goal a success.

        Raises:
            AccuracyError: If the goal is missed; it says what was reached.
        """
        if self.met:
            return
        reached = "; ".join(
            f"{part} "
            + ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value)
            for part, figures in self.report["figures"].items()
        )
        raise AccuracyError(
            f"the goal {self.report['goal']} cannot be met: the best graph found keeps "
            f"{len(self.keep_float)} of {self.report['of_nodes']} nodes in float and reaches "
            f"{reached}",
            f"it is in {output}; calibrate otherwise, or ask for less",
        )


def read_goal(
    min_sqnr: float | None,
    max_drop: float | None,
    *,
    precision: str,
    data: Any,
    labels: Any,
    samples: int | None,
) -> Goal | None:
    """Read the gate's options; `None` if no goal is set.

    Raises:
        SpecError: If an option has no use, lacks another, or is out of range.
    """
    if min_sqnr is None and max_drop is None:
        for name, value in (("labels", labels), ("samples", samples)):
            if value is not None:
                raise SpecError(f"{name} serve min_sqnr and max_drop only", "give one of them")
        return None
    goal = Goal(min_sqnr, max_drop)
    if not precision.startswith("int8"):
        raise SpecError(
            f"{goal.name} keeps layers out of INT8; the precision is {precision}", "leave it out"
        )
    if data is None:
        raise SpecError(
            f"{goal.name} is judged on real inputs, and there are none",
            "give data that the graph was not calibrated with",
        )
    return goal


def warn_of_random(table: CalibTable, goal: Goal | None) -> None:
    """Warn of a table made of random data; no goal may rest on one.

    Raises:
        TableError: If a goal is set.
    """
    if not table.manifest.options.get("random"):
        return
    if goal is not None:
        raise TableError(
            f"the table was made of random data, so that {goal.name} cannot be vouched for",
            "calibrate on real data",
        )
    logging.getLogger(__name__).warning(
        "the table was made of random data: accuracy is unknown and likely low"
    )


def search_keep_float(
    model: onnx.ModelProto,
    make: Make,
    goal: Goal,
    samples: LabelledSamples,
    *,
    recipe: Recipe,
    scales: Mapping[str, float],
    keep_float: Collection[str] = (),
    progress: Progress | None = None,
) -> GateResult:
    """Search the fewest nodes to keep in float.

    Args:
        model: The float graph.
        make: Writes the precision into it, but for the nodes it is given.
        goal: What to reach.
        samples: What to judge on. From 16 on every other one is held out of the search.
        recipe: What `make` quantizes.
        scales: Real value of one integer step, by tensor, for ranking the layers.
        keep_float: Nodes that stay in float anyway.
        progress: Called with trials done, their number if known, and a word.

    Raises:
        DataError: If the goal is of accuracy and there are no labels, or they do not fit.
        GraphError: If there is nothing to quantize, or a graph does not run.
    """
    if goal.max_drop is not None and samples.labels is None:
        raise DataError(
            "max_drop is about accuracy, and the data has no labels",
            "give labels, or min_sqnr, which needs none",
        )
    always = frozenset(keep_float)
    nodes = quantized_nodes(model, recipe, always)
    has_check = len(samples) >= LEAST_SAMPLES
    searched = samples.half(0) if has_check else samples
    ranking = Ranking(model, nodes, recipe, scales, always, searched, progress)
    search = _Search(model, make, goal, recipe, searched, always, progress)
    kept = search.fewest(ranking)
    parts = {"searched": search}
    grown = 0
    if has_check:
        parts["held_out"] = check = _Search(
            model, make, goal, recipe, samples.half(1), always, progress
        )
        while not check.meets(kept) and len(kept) < len(nodes) - 1:
            grown += 1
            kept |= frozenset(ranking.rest(kept)[: 2 ** (grown - 1)])
        if not (search.meets(kept) and check.meets(kept)):
            kept = max(
                check.judged, key=lambda k: (min(check.excess(k), search.excess(k)), -len(k))
            )
    met = all(part.meets(kept) for part in parts.values())
    report = {
        "goal": str(goal),
        "met": met,
        "kept_in_float": sorted(kept),
        "of_nodes": len(nodes),
        "trials": ranking.trials + sum(len(part.judged) for part in parts.values()),
        "figures": {name: part.figures(kept) for name, part in parts.items()},
        "samples": _samples_report(len(searched), len(samples) - len(searched), grown),
    }
    return GateResult(tuple(sorted(kept)), met, report)


def _samples_report(searched: int, held_out: int, grown: int) -> str:
    """Say which samples the figures are of, and what that means for them."""
    if not held_out:
        return f"{searched} searched on, none held out: the figures flatter"
    text = f"{searched} searched on, {held_out} held out"
    if grown:
        text += "; the held-out ones missed the goal at first, so they took part in the choice"
    return text


class Ranking:
    """Nodes in the order of what each costs when it alone is quantized; measured when asked for."""

    def __init__(
        self,
        model: onnx.ModelProto,
        nodes: list[str],
        recipe: Recipe,
        scales: Mapping[str, float],
        always: frozenset[str],
        samples: LabelledSamples,
        progress: Progress | None,
    ) -> None:
        self.nodes = nodes
        self.trials = 0
        self._model, self._recipe, self._scales = model, recipe, scales
        self._always, self._progress = always, progress
        rows = {name: array[:RANKING_SAMPLES] for name, array in samples.arrays.items()}
        self._samples = replace(samples, arrays=rows, labels=None)

    @functools.cached_property
    def order(self) -> list[str]:
        """The costliest first."""
        trials = NodeTrials(
            self._model,
            lambda keep: insert_qdq(self._model, self._scales, self._recipe, keep)[0],
            self._recipe,
            self._samples,
        )
        others = self._always | set(self.nodes)
        alone = {}
        for node in self.nodes:
            if self._progress:
                self._progress(self.trials, len(self.nodes), "ranking layers")
            alone[node] = trials.judge(others - {node}).sqnr_db
            self.trials += 1
        return sorted(self.nodes, key=lambda node: alone[node])

    def rest(self, kept: Collection[str]) -> list[str]:
        """Give those that can still be kept; one is left to INT8."""
        return [node for node in self.order if node not in kept][: len(self.nodes) - len(kept) - 1]


class _Search:
    """Trials on one half of the samples; each set of nodes is judged once."""

    def __init__(
        self,
        model: onnx.ModelProto,
        make: Make,
        goal: Goal,
        recipe: Recipe,
        samples: LabelledSamples,
        always: frozenset[str],
        progress: Progress | None,
    ) -> None:
        self._model, self._recipe, self._goal = model, recipe, goal
        self._always, self._progress = always, progress
        self._trials = NodeTrials(model, lambda keep: make(always | set(keep)), recipe, samples)
        self.judged: dict[frozenset[str], Figures] = {}

    def fewest(self, ranking: Ranking) -> frozenset[str]:
        """Find few nodes with which the goal is met, or those that come closest."""
        if self.meets(()):
            return frozenset()
        order = ranking.order
        most = len(order) - 1  # one is left to INT8, or there is no INT8 at all
        low, high = 0, min(1, most)  # that many are known not to do; these are to be tried
        while not self.meets(order[:high]):
            if high == most:
                return max(self.judged, key=lambda kept: (self.excess(kept), -len(kept)))
            low, high = high, min(2 * high, most)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.meets(order[:middle]) else (middle, high)
        kept = frozenset(order[:high])
        for node in reversed(order[:high]):
            if len(kept) > 1 and self.meets(kept - {node}):
                kept -= {node}
        return kept

    def meets(self, kept: Iterable[str]) -> bool:
        """Tell whether the goal is met with these nodes in float."""
        return self.excess(kept) >= 0

    def excess(self, kept: Iterable[str]) -> float:
        """Say by how much the goal is surpassed."""
        return self._goal.excess(self._judge(frozenset(kept)), self._trials.float_figures)

    def figures(self, kept: Iterable[str]) -> dict[str, float | None]:
        """Describe what is reached, for the report."""
        found, of_float = self._judge(frozenset(kept)), self._trials.float_figures
        described = {"sqnr_db": finite_or_none(found.sqnr_db)}
        if found.top1 is not None:
            described |= {
                "float_top1": of_float.top1,
                "top1": found.top1,
                "drop": _drop(found, of_float),
            }
        return described

    def _judge(self, kept: frozenset[str]) -> Figures:
        if kept not in self.judged:
            if self._progress:
                self._progress(len(self.judged), None, "searching")
            self.judged[kept] = self._trials.judge(self._always | kept)
        return self.judged[kept]


def _drop(figures: Figures, of_float: Figures) -> float:
    assert figures.top1 is not None
    assert of_float.top1 is not None
    return of_float.top1 - figures.top1
