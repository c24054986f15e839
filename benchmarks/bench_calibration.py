"""What calibration costs in time and memory, beside onnxruntime's and nvidia-modelopt's.

One float graph of a Swin-T, 224x224, one image at a time, and the same images for all. Each tool
turns them into a quantized graph, in a process of its own; imports are not timed. The floor is
what nobody can do without: ONNX Runtime runs the images and forgets them. The memory of a process
is limited, so that a tool which keeps every activation fails by itself; its row says so.

    python -m benchmarks.bench_calibration [--images N]... [--tool TOOL[:METHOD]]... [--resume]

For a few minutes' run: `--images 16 --tool edgeattn`. Timings count on a quiet machine only. All of
it takes about a quarter of an hour on two cores; `--resume` goes on after what was measured today.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.int8_cases import HF_SWIN, Int8Case, make_case
from benchmarks.int8_tools import Job
from benchmarks.past_rows import Resumed
from benchmarks.processes import available_mib, run_job
from benchmarks.rows import append_row
from edgeattn.calibration.histogram import MagnitudeHistogram
from edgeattn.calibration.thresholds import entropy_amax, mse_amax, percentile_amax

IMAGES = (128, 256, 512)
FLOOR = "floor"
WAYS = (
    ("edgeattn", "minmax"),
    ("edgeattn", "percentile"),
    ("edgeattn", "entropy"),
    ("edgeattn", "auto"),
    ("onnxruntime", "minmax"),
    ("onnxruntime", "entropy"),
    ("onnxruntime", "percentile"),
    ("modelopt", "max"),
    ("modelopt", "entropy"),
)
BENCHMARK = "calibration_cost"

# As many tensors as onnxruntime calibrates of a Swin-T by default.
SEARCHED_TENSORS = 490
# onnxruntime's search takes seconds per tensor; a few show that.
SEARCHED_BY_PEER = 4


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, action="append", help="may be given more than once")
    parser.add_argument("--tool", action="append", help="such as edgeattn or modelopt:entropy")
    parser.add_argument("--graph", default=HF_SWIN, help=f"a model; by default {HF_SWIN}")
    parser.add_argument("--memory-limit-mib", type=int, help="by default 3/4 of what is available")
    parser.add_argument("--resume", action="store_true", help="leave out what was measured today")
    parser.add_argument("--no-search", action="store_true", help="leave the threshold search out")
    arguments = parser.parse_args()
    images = tuple(arguments.images or IMAGES)
    ways = [way for way in WAYS if is_asked_for(way, arguments.tool)]
    resumed = Resumed(BENCHMARK, arguments.resume)
    if not arguments.no_search:
        run_searches(resumed)
    limit = arguments.memory_limit_mib or available_mib() * 3 // 4
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(arguments.graph, Path(folder), calibration=1, held_out=max(images))
        samples = Path(folder, "samples.npy")
        np.save(samples, case.held_out)
        CalibrationRun(case, samples, limit, resumed).run(images, ways)


def is_asked_for(way: tuple[str, str], asked: list[str] | None) -> bool:
    """Tell whether `TOOL` or `TOOL:METHOD` names a way; everything does if nothing is given."""
    return not asked or way[0] in asked or ":".join(way) in asked


class CalibrationRun:
    """The ways to quantize one graph, for several numbers of images.

    Args:
        case: The graph.
        samples: File of its images.
        memory_limit_mib: Address space of a process.
        resumed: What need not be measured.
    """

    def __init__(
        self, case: Int8Case, samples: Path, memory_limit_mib: int, resumed: Resumed
    ) -> None:
        self._case = case
        self._samples = samples
        self._limit = memory_limit_mib
        self._resumed = resumed
        self._failed: dict[tuple[str, str], int] = {}

    def run(self, images: tuple[int, ...], ways: list[tuple[str, str]]) -> None:
        """Measure, print a table and keep the rows; the smaller numbers of images come first."""
        print(f"{self._case.name}, memory limit {self._limit} MiB")
        print(f"{'':24}{'images':>8}{'seconds':>10}{'of floor':>10}{'peak MiB':>10}")
        for count in sorted(images):
            floor = self._measured((FLOOR, ""), count, None)
            for way in ways:
                self._measured(way, count, floor["seconds"])

    def _measured(self, way: tuple[str, str], count: int, floor_s: float | None) -> dict[str, Any]:
        tool, method = way
        row = {"graph": self._case.name, "tool": tool, "method": method, "images": count}
        known = self._resumed.result(row)
        if known is None:
            result = self._result(way, count)
            if floor_s is not None and "failed" not in result:
                result["ratio_to_floor"] = result["seconds"] / floor_s
            append_row(BENCHMARK, row, result)
        else:
            result = dict(known)
        if "failed" in result:
            self._failed.setdefault(way, count)
        print(f"{tool + ' ' + method:24}{count:8}{describe(result)}", flush=True)
        return result

    def _result(self, way: tuple[str, str], count: int) -> dict[str, Any]:
        if way in self._failed:
            return {"failed": f"not tried: it failed with {self._failed[way]} images"}
        if way[0] == FLOOR:  # everything is compared with it
            runs = [self._run(way, count) for _ in range(2)]
            if "failed" in runs[-1]:
                raise SystemExit(f"the images do not run: {runs[-1]['failed']}")
            seconds = [run["seconds"] for run in runs]
            return runs[-1] | {"seconds": sum(seconds) / len(seconds), "runs_s": seconds}
        return self._run(way, count)

    def _run(self, way: tuple[str, str], count: int) -> dict[str, Any]:
        tool, method = way
        graph = self._case.graph if tool == "edgeattn" else self._case.plain
        job = Job(
            tool,
            method,
            str(graph),
            str(self._samples),
            count,
            str(self._samples.with_name("quantized.onnx")),
            memory_limit_mib=self._limit,
        )
        return run_job(job) | {"memory_limit_mib": self._limit}


def describe(result: Mapping[str, Any]) -> str:
    """Write figures down for the terminal."""
    if "failed" in result:
        return f"  {result['failed']}"
    ratio = result.get("ratio_to_floor")
    of_floor = "" if ratio is None else f"{ratio:.2f}x"
    return f"{result['seconds']:10.1f}{of_floor:>10}{result['peak_mib']:10.0f}"


def run_searches(resumed: Resumed) -> None:
    """Time the search for thresholds in the histograms of many tensors."""
    histograms = [histogram_of(tensor) for tensor in range(SEARCHED_TENSORS)]
    searches: dict[str, Callable[[MagnitudeHistogram], float]] = {
        "percentile": lambda histogram: percentile_amax(histogram, 99.99),
        "entropy": entropy_amax,
        "mse": mse_amax,
    }
    for method, search in searches.items():
        case = {"search": method, "tool": "edgeattn", "tensors": SEARCHED_TENSORS}
        if resumed.result(case) is None:
            seconds = _timed(lambda search=search: [search(each) for each in histograms])
            print(f"search edgeattn {method:12}{SEARCHED_TENSORS:5} tensors{seconds:8.2f} s")
            append_row(BENCHMARK, case, {"seconds": seconds})
    case = {"search": "entropy", "tool": "onnxruntime", "tensors": SEARCHED_BY_PEER}
    if resumed.result(case) is None:
        collector, linear = peer_search()
        seconds = _timed(lambda: [collector(each) for each in linear])
        print(f"search onnxruntime entropy {SEARCHED_BY_PEER:4} tensors{seconds:8.2f} s")
        append_row(BENCHMARK, case, {"seconds": seconds, "bins": len(linear[0][0])})


def histogram_of(tensor: int, values: int = 1 << 16) -> MagnitudeHistogram:
    """Draw a tensor: normal ones with tails of different weight, half of them past a GELU."""
    histogram = MagnitudeHistogram()
    histogram.update(_draw(tensor, values))
    return histogram


def peer_search() -> tuple[Callable[[Any], Any], list[Any]]:
    """Make onnxruntime's entropy search, with the 2048 bins that it is meant to have.

    By default it has 128 bins and 128 levels, which leaves it one candidate: the maximum.
    """
    from onnxruntime.quantization import calibrate

    collector = calibrate.HistogramCollector("entropy", True, 2048, 128, 99.99, "same")
    drawn = []
    for tensor in range(SEARCHED_BY_PEER):
        values = _draw(tensor, 1 << 16)
        amax = float(np.abs(values).max())
        counts, edges = np.histogram(values, 2048, (-amax, amax))
        drawn.append((counts, edges, values.min(), values.max(), amax))
    return lambda histogram: collector.get_entropy_threshold(histogram, 128), drawn


def _draw(tensor: int, values: int) -> np.ndarray:
    rng = np.random.default_rng(tensor)
    drawn = rng.standard_t(3 + tensor % 20, values).astype(np.float32)
    return np.maximum(drawn, -0.17) if tensor % 2 else drawn


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
