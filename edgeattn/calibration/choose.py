"""Choose among candidate thresholds by what they do to the network's output.

The error of a tensor is no proxy for that of the output: a threshold that looks best by its own
histogram can cost 20 dB. So candidates are tried in the network:

1. Each tensor is rounded alone, at its largest magnitude, and the noise at the output is noted. A
   few tensors make nearly all of it.
2. For those the other candidates are tried, each tensor alone again: with all tensors rounded,
   their noises interfere, and what one candidate gains drowns in that.
3. The whole choice is confirmed in the fully quantized network, on samples that took no part.

A few samples often hold most of the noise, so a gain must show in its total and, beyond doubt, in
the typical sample too. What is not confirmed stays at the largest magnitude, `minmax`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edgeattn.calibration.judge import Arrays, OutputJudge, output_sqnr_db, rows_of, sample_noise
from edgeattn.calibration.scale_trials import ScaleTrials
from edgeattn.calibration.sources import Array
from edgeattn.errors import DataError, GraphError
from edgeattn.graph.compare import finite_or_none
from edgeattn.graph.placement import Recipe, place_qdq

SAFE = "minmax"

# Every other sample chooses, the others confirm.
LEAST_SAMPLES = 16
# Samples that tell which tensors make the noise, and which candidates are worth trying on more.
RANKING_SAMPLES = 4
FIRST_SAMPLES = 8
# Of all the noise, the share to look into, the least of a tensor to be looked at (3 dB less of a
# twentieth is a tenth of a dB), and the most tensors for each recipe. So the search costs about as
# much as running 500 to 1,000 samples.
NOISE_SHARE = 0.9
LEAST_SHARE = 0.05
MOST_TENSORS = 4
# Least mean of the gains of single samples, in standard errors: to be tried, to be confirmed.
CERTAIN = 2.5
CONFIRMED = 1.0
# The default, and the one that rounds all; each rounds what those before it do.
_RECIPES: tuple[Recipe, ...] = ("linear", "full")
# Of the signal: errors below are float32's own.
_NOISE_FLOOR = 1e-12
_ALL_LOST = 1e12  # stands for infinite noise where noises are summed up

Candidates = Mapping[str, Mapping[str, float]]
Progress = Callable[[int, "int | None", str], None]


@dataclass(frozen=True)
class ThresholdChoice:
    """Which candidate each tensor gets.

    Attributes:
        methods: Method by tensor.
        report: What was tried and what it gained at the output, in dB; JSON values.
    """

    methods: dict[str, str]
    report: dict[str, Any]


def choose_thresholds(
    model: onnx.ModelProto,
    candidates: Candidates,
    samples: Arrays,
    progress: Progress | None = None,
) -> ThresholdChoice:
    """Choose a threshold for each tensor by the error at the network's output.

    Args:
        model: The float graph.
        candidates: By tensor, in the graph's order, the threshold that each method gives;
            `minmax` among them. A method that gives no threshold of its own is left out.
        samples: Inputs by name, samples along axis 0: every other one chooses, the others confirm.
        progress: Called with trials done, their number if known, and a word.

    Returns:
        The choice; `minmax` for every tensor for which nothing else was confirmed to be better.
    """
    choice = dict.fromkeys(candidates, SAFE)
    count = len(next(iter(samples.values()), ()))
    report: dict[str, Any] = {"samples": count, "recipes": {}}
    if count < LEAST_SAMPLES:
        report["reason"] = f"{count} samples are too few to choose by; expected {LEAST_SAMPLES}"
        return ThresholdChoice(choice, report)
    noises: dict[str, float] = {}
    try:
        reference = OutputJudge(model, samples).reference
        _check_rows(reference, count)
        for recipe in _RECIPES:
            tensors = [t for t in place_qdq(model, recipe).activations if t not in noises]
            if tensors:
                search = _Search(model, recipe, candidates, samples, reference, progress)
                choice |= search.choose(tensors, choice, noises)
                report["recipes"][recipe] = search.report
    except (DataError, GraphError) as err:  # the calibration itself went well
        report["reason"] = err.message
    return ThresholdChoice(choice, report)


def _check_rows(outputs: Arrays, count: int) -> None:
    for name, array in outputs.items():
        if len(array) != count:
            raise DataError(f"the output {name} has no row for each sample to judge by")


@dataclass(frozen=True)
class _Gain:
    """How much less noise there is, in dB.

    Attributes:
        total_db: Of all samples together.
        typical_db: Mean of the gains of the single samples.
        certainty: That mean over its standard error.
    """

    total_db: float
    typical_db: float
    certainty: float

    @classmethod
    def between(cls, before: Array, after: Array) -> _Gain:
        """Compare two noises, `[samples]`, relative to the signal."""
        before, after = (np.maximum(noise, _NOISE_FLOOR) for noise in (before, after))
        with np.errstate(invalid="ignore"):
            gains = 10 * np.log10(before / after)
        if not np.isfinite(gains).all():
            return cls(-math.inf, -math.inf, -math.inf)
        mean = float(gains.mean())
        error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
        certainty = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
        return cls(10 * math.log10(before.sum() / after.sum()), mean, certainty)

    def is_sure(self, least: float) -> bool:
        """Tell whether there is a gain in the total, and beyond doubt in the typical sample."""
        return self.total_db > 0 and self.certainty >= least

    @property
    def worth_db(self) -> float:
        """The lesser of the two: neither a few samples nor the many small ones decide alone."""
        return min(self.total_db, self.typical_db)

    def to_dict(self) -> dict[str, float | None]:
        """Turn the gain into JSON values."""
        values = {"total_db": self.total_db, "typical_db": self.typical_db}
        return {name: finite_or_none(round(value, 2)) for name, value in values.items()}


class _Search:
    """The trials of one recipe."""

    def __init__(
        self,
        model: onnx.ModelProto,
        recipe: Recipe,
        candidates: Candidates,
        samples: Arrays,
        reference: Arrays,
        progress: Progress | None,
    ) -> None:
        self.report: dict[str, Any] = {}
        self._trials = ScaleTrials(model, recipe, samples)
        self._candidates = candidates
        self._reference = reference
        self._progress = progress
        self._done = 0
        rows = np.arange(len(next(iter(samples.values()))))
        self._choosing, self._confirming = rows[0::2], rows[1::2]
        self._unrounded = self._trials.run({})  # the weights are rounded always

    def choose(
        self, tensors: list[str], before: Mapping[str, str], noises: dict[str, float]
    ) -> dict[str, str]:
        """Choose for some tensors.

        Args:
            tensors: Which.
            before: Methods of all tensors so far.
            noises: What the tensors of other recipes make; those of this one are added.
        """
        found: dict[str, str] = {}
        tried = self.report["tried"] = []
        for tensor, share in self._loudest(tensors, noises):
            gains = self._gains(tensor)
            described = {method: gain.to_dict() for method, gain in gains.items()}
            tried.append(
                {"tensor": tensor, "noise_percent": round(100 * share, 1), "gain_db": described}
            )
            sure = {method: gain for method, gain in gains.items() if gain.is_sure(CERTAIN)}
            if sure:
                found[tensor] = max(sure, key=lambda method: sure[method].worth_db)
        if found and not self._confirm(found, before):
            found = {}
        self.report["chosen"] = found
        return found

    def _loudest(self, tensors: list[str], noises: dict[str, float]) -> Iterator[tuple[str, float]]:
        """Yield those that make nearly all the noise, each with its share."""
        for tensor in tensors:
            alone = self._noise({tensor: SAFE}, self._choosing[:RANKING_SAMPLES])
            noises[tensor] = float(np.minimum(alone, _ALL_LOST).sum())
        whole = sum(noises.values())
        rest = sum(noises[tensor] for tensor in tensors)
        for tensor in sorted(tensors, key=lambda name: -noises[name])[:MOST_TENSORS]:
            if rest <= (1 - NOISE_SHARE) * whole or noises[tensor] < LEAST_SHARE * whole:
                return
            rest -= noises[tensor]
            if len(self._candidates[tensor]) > 1:
                yield tensor, noises[tensor] / whole

    def _gains(self, tensor: str) -> dict[str, _Gain]:
        """Try the candidates of one tensor; those that lose on the first samples go no further."""
        first, rest = np.split(self._choosing, [FIRST_SAMPLES])
        safe = self._noise({tensor: SAFE}, first)
        safe_rest = self._noise({tensor: SAFE}, rest) if len(rest) else rest
        gains = {}
        for method in self._candidates[tensor]:
            if method == SAFE:
                continue
            noise = self._noise({tensor: method}, first)
            gain = _Gain.between(safe, noise)
            if gain.typical_db > 0 and len(rest):
                noise = np.concatenate([noise, self._noise({tensor: method}, rest)])
                gain = _Gain.between(np.concatenate([safe, safe_rest]), noise)
            gains[method] = gain
        return gains

    def _confirm(self, found: Mapping[str, str], before: Mapping[str, str]) -> bool:
        """Compare with `minmax` in the whole network, on the samples that did not choose."""
        rows = self._confirming
        reference = rows_of(self._reference, rows)
        outputs = [
            self._trials.run(self._amax({t: methods[t] for t in self._trials.tensors}), rows)
            for methods in (dict.fromkeys(before, SAFE), {**before, **found})
        ]
        gain = _Gain.between(*(sample_noise(reference, output) for output in outputs))
        sqnr_db = [output_sqnr_db(reference, output) for output in outputs]
        confirmed = gain.is_sure(CONFIRMED) and sqnr_db[1] > sqnr_db[0]
        self.report["confirmation"] = {
            "samples": len(rows),
            "minmax_db": finite_or_none(sqnr_db[0]),
            "chosen_db": finite_or_none(sqnr_db[1]),
            "typical_gain_db": finite_or_none(round(gain.typical_db, 2)),
            "confirmed": confirmed,
        }
        return confirmed

    def _noise(self, methods: Mapping[str, str], rows: Array) -> Array:
        """Noise at the output, `[rows]`, of rounding these tensors alone."""
        self._done += 1
        if self._progress:
            self._progress(self._done, None, "choosing")
        outputs = self._trials.run(self._amax(methods), rows)
        return sample_noise(rows_of(self._unrounded, rows), outputs)

    def _amax(self, methods: Mapping[str, str]) -> dict[str, float]:
        return {tensor: self._candidates[tensor][method] for tensor, method in methods.items()}
