"""What a case of the attention benchmark gave: figures, goals, rows and a printed line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rows import append_row
from benchmarks.window_cases import WindowCase
from edgeattn.profiling.stats import LatencyStats

COPIES = ("copy", "copy-kernel")
_OURS = ("library", "operator", "variant-")


@dataclass
class Outcome:
    """What a case gave.

    Attributes:
        case: What was measured.
        stats: Per way, the time of one call.
        errors: Per way, how far its result is from the reference.
        failures: Per way, why there is no time.
        int8_gain: Times that INT8 is faster than FP16, if both were measured.
        chosen_variant: The kernel that the library chose.
    """

    case: WindowCase
    stats: dict[str, LatencyStats] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    int8_gain: float | None = None
    chosen_variant: int = 0

    @property
    def peers(self) -> dict[str, float]:
        """Median milliseconds of PyTorch's ways."""
        return {
            way: stats.p50_ms
            for way, stats in self.stats.items()
            if way not in COPIES and not way.startswith(_OURS)
        }

    @property
    def best_peer(self) -> str | None:
        """The fastest of PyTorch's ways."""
        return min(self.peers, key=self.peers.__getitem__, default=None)

    @property
    def share_of_copy(self) -> float | None:
        """Bandwidth of the library over that of a copy of the same bytes."""
        copies = [self.stats[way].p50_ms for way in COPIES if way in self.stats]
        if not copies or "library" not in self.stats:
            return None
        return min(copies) / self.stats["library"].p50_ms

    @property
    def speedup(self) -> float | None:
        """Times that the library is faster than the best of PyTorch's ways."""
        if self.best_peer is None or "library" not in self.stats:
            return None
        return self.peers[self.best_peer] / self.stats["library"].p50_ms

    @property
    def goals(self) -> dict[str, tuple[float, float]]:
        """The goals that this case can judge, each with the figure and the bound."""
        judged = {
            "share_of_copy": (self.share_of_copy, self.case.least_share),
            "speedup": (self.speedup, self.case.least_speedup),
            "int8_gain": (self.int8_gain, self.case.least_int8_gain),
        }
        return {
            name: (figure, bound)
            for name, (figure, bound) in judged.items()
            if figure is not None and bound is not None
        }


def keep_rows(
    outcome: Outcome, kernels: dict[str, Any], gpu: dict[str, Any], results: Path
) -> None:
    """Append one row for each way.

    Args:
        outcome: What was measured.
        kernels: What the kernel library says of itself.
        gpu: What was measured on.
        results: The folder of all results.
    """
    case = outcome.case
    fastest_copy = min((outcome.stats[way].p50_ms for way in COPIES), default=None)
    for way, stats in outcome.stats.items():
        result = {
            **stats.to_dict(),
            "bytes_moved": case.bytes_moved,
            "gb_per_s": case.bytes_moved / stats.p50_ms / 1e6,
            "share_of_copy": fastest_copy / stats.p50_ms if fastest_copy else None,
            "error": outcome.errors.get(way),
        }
        if way == "library":
            result |= {
                "chosen_variant": outcome.chosen_variant,
                "best_peer": outcome.best_peer,
                "speedup_over_best_peer": outcome.speedup,
                "int8_gain": outcome.int8_gain,
                "failed_peers": outcome.failures,
                "goals": {name: list(pair) for name, pair in outcome.goals.items()},
            }
        described = {"name": case.name, **asdict(case), "way": way}
        described["kernels"] = {k: kernels[k] for k in ("cuda", "architectures", "source_sha256")}
        append_row("window_attention", described, result, gpu=gpu, results=results)


def print_outcome(outcome: Outcome) -> None:
    """Print a case's line, and what else there is to say of it."""
    stats, goals = outcome.stats, outcome.goals
    ours = stats["library"].p50_ms
    rate = outcome.case.bytes_moved / ours / 1e6

    def judged(name: str, value: float | None, form: str) -> str:
        if value is None:
            return "-"
        verdict = ""
        if name in goals:
            figure, bound = goals[name]
            verdict = f" {'>=' if figure >= bound else 'MISSES'} {bound:g}"
        return format(value, form) + verdict

    operator = f"{stats['operator'].p50_ms * 1e3:9.1f}" if "operator" in stats else f"{'-':>9}"
    print(
        f"{outcome.case.name:34}{ours * 1e3:9.1f}{operator}{rate:7.0f}  "
        f"{judged('share_of_copy', outcome.share_of_copy, '.2f'):18}"
        f"{judged('speedup', outcome.speedup, '.2f'):16}{outcome.best_peer or '-':16}"
        f"{judged('int8_gain', outcome.int8_gain, '.2f')}"
    )
    variants = {way: s.p50_ms for way, s in stats.items() if way.startswith("variant-")}
    best = min(variants, key=variants.__getitem__, default=None)
    if best is not None and variants[best] < 0.97 * ours:
        print(
            f"    {best} is faster than the library's choice, variant-{outcome.chosen_variant}: "
            f"{variants[best] * 1e3:.1f} us"
        )
    noisy = [way for way, s in stats.items() if s.cv_percent > 2.5]
    if noisy:
        print(f"    spread above 2.5 %: {', '.join(noisy)}")
    for way, reason in outcome.failures.items():
        print(f"    {way} has no time: {reason}")
