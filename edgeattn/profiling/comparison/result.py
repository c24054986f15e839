"""What comes out of a comparison: pairs of the reference and each candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeattn.artifacts import Manifest
from edgeattn.graph.compare import OutputComparison, finite_or_none
from edgeattn.profiling.comparison.differences import troubles
from edgeattn.profiling.comparison.gates import Gate
from edgeattn.profiling.comparison.modules import ModulePair
from edgeattn.profiling.comparison.ratio import Ratio
from edgeattn.profiling.comparison.sides import Side
from edgeattn.profiling.stats import LatencyStats

# Of several outputs, the worst counts.
_WORST: dict[str, Callable[[list[float]], float]] = {
    "max_abs_error": max,
    "max_rel_error": max,
    "sqnr_db": min,
    "centred_sqnr_db": min,
    "cosine": min,
    "top1_agreement": min,
}
_LATENCIES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99_9_ms", "mean_ms", "cv_percent")

_OWN = ("top1_a", "top1_b", "top1_drop", "latency_ratio")
_COSTS = ("throughput_qps", "energy_mj")

ACCURACY_FIGURES = (*_WORST, "top1_a", "top1_b", "top1_drop")
FIGURES = (*_WORST, *_OWN, *_LATENCIES, *_COSTS)


@dataclass(frozen=True)
class Comparison:
    """Two engines, or reports of them. A is the reference, B the candidate.

    Attributes:
        manifest: What was compared: both by their hashes, the options.
        a: The reference.
        b: The candidate.
        num_samples: Samples that ran through both; 0 if a side is a report.
        outputs: How far B's outputs are from A's, by A's names; empty if a side is a report.
        top1_a: Percent of samples that A classifies as labelled; `None` without labels.
        top1_b: The same of B.
        ratios: B's percentiles over A's, by names such as `p50`; those that both have.
        modules: Where the time goes in both; empty if that is not known of both.
        differences: What the latencies do not have in common, one sentence each.
        gates: The conditions to fail on, judged.
    """

    manifest: Manifest
    a: Side
    b: Side
    num_samples: int = 0
    outputs: dict[str, OutputComparison] = field(default_factory=dict)
    top1_a: float | None = None
    top1_b: float | None = None
    ratios: dict[str, Ratio] = field(default_factory=dict)
    modules: tuple[ModulePair, ...] = ()
    differences: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()

    @property
    def latency_a(self) -> LatencyStats | None:
        """Latency of A for one batch, measured in turns with B; or that of its report."""
        return self.a.latency

    @property
    def latency_b(self) -> LatencyStats | None:
        """Latency of B."""
        return self.b.latency

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of A's query, by A's input names; empty if no latency was measured."""
        return self.a.inputs

    @property
    def mode(self) -> str:
        """What the latencies hold."""
        return "; against ".join(dict.fromkeys((self.a.mode, self.b.mode)))

    @property
    def warnings(self) -> tuple[str, ...]:
        """The differences, and what else makes the latencies less than trustworthy."""
        return (*self.differences, *troubles((self.a, self.b)))

    @property
    def violations(self) -> tuple[str, ...]:
        """The conditions to fail on that are true, with the figure found."""
        return tuple(str(gate) for gate in self.gates if gate.word == "failed")

    @property
    def undecided(self) -> tuple[str, ...]:
        """Those that the spread of the latencies leaves open."""
        return tuple(str(gate) for gate in self.gates if gate.word == "too close to call")

    @property
    def top1_drop(self) -> float | None:
        """Percentage points of top-1 that B loses against A."""
        if self.top1_a is None or self.top1_b is None:
            return None
        return self.top1_a - self.top1_b

    @property
    def latency_ratio(self) -> float | None:
        """Median latency of B over that of A: below 1 where B is faster."""
        return self.ratios["p50"].value if "p50" in self.ratios else None

    def figures(self) -> dict[str, float | None]:
        """Give every figure a condition may name; of outputs the worst, of latencies B's.

        `energy_mj` is that of B's report: engines that take turns have none of their own.
        """
        found: dict[str, float | None] = {}
        for name, worst in _WORST.items():
            values = [getattr(output, name) for output in self.outputs.values()]
            known = [value for value in values if value is not None]
            found[name] = worst(known) if known else None
        found |= {name: getattr(self, name) for name in _OWN}
        found |= {name: getattr(self.latency_b, name, None) for name in _LATENCIES}
        return found | {name: getattr(self.b, name) for name in _COSTS}

    def to_dict(self) -> dict[str, Any]:
        """Turn the comparison into JSON values; infinite figures (equal outputs) become null."""
        return {
            "manifest": self.manifest.to_dict(),
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "num_samples": self.num_samples,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "mode": self.mode,
            "outputs": {name: output.to_dict() for name, output in self.outputs.items()},
            "figures": {name: finite_or_none(value) for name, value in self.figures().items()},
            "latency_a": self.latency_a.to_dict() if self.latency_a else None,
            "latency_b": self.latency_b.to_dict() if self.latency_b else None,
            "ratios": {name: asdict(ratio) for name, ratio in self.ratios.items()},
            "modules": [pair.to_dict() for pair in self.modules],
            "warnings": list(self.warnings),
            "gates": [gate.to_dict() for gate in self.gates],
            "violations": list(self.violations),
        }


@dataclass(frozen=True)
class Comparisons:
    """Any number of candidates against one reference.

    Attributes:
        pairs: The reference and each candidate, in the order in which they were given.
    """

    pairs: tuple[Comparison, ...]

    @property
    def sides(self) -> tuple[Side, ...]:
        """The reference and the candidates."""
        return (self.pairs[0].a, *(pair.b for pair in self.pairs))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of all pairs, each once."""
        apart = (text for pair in self.pairs for text in pair.differences)
        return (*dict.fromkeys(apart), *troubles(self.sides))

    def to_dict(self) -> dict[str, Any]:
        """Turn the comparisons into JSON values."""
        return {
            "sides": [side.to_dict() for side in self.sides],
            "warnings": list(self.warnings),
            "comparisons": [pair.to_dict() for pair in self.pairs],
        }
