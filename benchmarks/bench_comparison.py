"""How often does the interval of a comparison hold the truth?

An engine is loaded twice and compared with itself, again and again: the ratio of any percentile is
1, and 95 of 100 intervals should hold it. Beside the intervals that draw whole turns stand those
that draw blocks of each side alone, from the same queries: what they would claim. The busier the
machine, the more the two differ.

    python -m benchmarks.bench_comparison [--comparisons N] [--duration S]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import edgeattn
from benchmarks.rows import append_row
from edgeattn.engine.load import load
from edgeattn.engine.random_inputs import random_inputs
from edgeattn.profiling.comparison.ratio import Times, percentile_ratio
from edgeattn.profiling.measure import measure_interleaved

MODEL = "mswin_nano"
PERCENTILES = (50, 95)
LEAST_SHARE = 0.85  # of the intervals that hold 1: below, they claim too much


def coverage(engine: Path, comparisons: int, duration_s: float) -> dict[str, dict[str, Any]]:
    """Compare an engine with itself.

    Args:
        engine: A CPU engine or graph of fixed shapes.
        comparisons: How often.
        duration_s: How long each engine is timed in each comparison.

    Returns:
        By the way of drawing and the percentile: how many intervals there were, how many of them
        hold 1, and the median of their widths, in percent.
    """
    found: dict[str, list[tuple[float, float]]] = {
        f"{way} p{percent}": [] for way in ("turns", "apart") for percent in PERCENTILES
    }
    with load(engine, threads=1) as first, load(engine, threads=1) as second:
        inputs = random_inputs(first.inputs)
        queries = {"a": first.bind(inputs), "b": second.bind(inputs)}
        for _ in range(comparisons):
            measured = measure_interleaved(queries, duration_s=duration_s)
            a, b = (
                Times(tuple(m.latency_ms), tuple(t.start_enqueue_ns for t in m.times))
                for m in measured.values()
            )
            for name, bounds in found.items():
                way, percent = name.split(" p")
                is_one_run = way == "turns"
                ratio = percentile_ratio(a, b, int(percent), 1.0, is_one_run=is_one_run)
                if ratio.interval is not None:
                    bounds.append(ratio.interval)
    return {name: _summary(bounds) for name, bounds in found.items()}


def _summary(bounds: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "intervals": len(bounds),
        "held": sum(low <= 1 <= high for low, high in bounds),
        "width_percent": 100 * statistics.median(high - low for low, high in bounds)
        if bounds
        else None,
    }


def main() -> None:
    """Run the benchmark; exit with 1 if the intervals of turns hold 1 too rarely."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=40)
    parser.add_argument("--duration", type=float, default=3.0, help="seconds of each engine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeattn-") as folder:
        engine = edgeattn.export(MODEL, output=Path(folder) / "net.onnx")
        result = coverage(engine, arguments.comparisons, arguments.duration)
    append_row("comparison", vars(arguments) | {"model": MODEL}, result)
    for name, of in result.items():
        print(
            f"{name}: {of['held']} of {of['intervals']} hold 1, width {of['width_percent']:.1f} %"
        )
    print(json.dumps(result))
    median = result["turns p50"]
    sys.exit(int(median["held"] < LEAST_SHARE * median["intervals"]))


if __name__ == "__main__":
    main()
