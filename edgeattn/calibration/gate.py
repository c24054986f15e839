"""The accuracy gate: find the fewest layers to keep in float so that a goal is met.

Layers are freed of INT8 in the order of what each costs alone, as many as the goal takes; then
those that turn out to be superfluous go back to INT8. One half of the samples is searched on, the
other must meet the goal too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from edgeattn.calibration.goal import Goal, top1_drop
from edgeattn.calibration.labelled import LabelledSamples
from edgeattn.calibration.sensitivity import Figures, NodeTrials, quantized_nodes
from edgeattn.errors import AccuracyError, DataError
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
        "samples": _samples_report(goal, len(searched), len(samples) - len(searched), grown),
    }
    return GateResult(tuple(sorted(kept)), met, report)


def _samples_report(goal: Goal, searched: int, held_out: int, grown: int) -> str:
    """Say which samples the figures are of, and what that means for them."""
    text = f"{searched} searched on, "
    text += f"{held_out} held out" if held_out else "none held out: the figures flatter"
    if grown:
        text += "; the held-out ones missed the goal at first, so they took part in the choice"
    if goal.max_drop is not None:
        text += f"; one sample is {100 / searched:.2g} points of those searched on"
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
                "drop": top1_drop(found, of_float),
            }
        return described

    def _judge(self, kept: frozenset[str]) -> Figures:
        if kept not in self.judged:
            if self._progress:
                self._progress(len(self.judged), None, "searching")
            self.judged[kept] = self._trials.judge(self._always | kept)
        return self.judged[kept]
