"""What INT8 costs in accuracy, method by method, beside onnxruntime's and nvidia-modelopt's.

Each tool quantizes the same float graph with the same samples. All results run on the same
held-out samples, in ONNX Runtime with its integer kernels off, so that the figures are those of the
graphs and not of the processor. Tools that do not know edgeattn's attention node get the graph in
standard operators (`edgeattn.graph.passes.decompose`), which computes the same.

    python -m benchmarks.bench_accuracy [MODEL]... [--registry] [--no-peers] [--resume]

`--registry` compares the default method with min-max on every model of the registry instead.
`make peers` installs nvidia-modelopt; without it its rows are left out.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import edgeattn
from benchmarks.int8_cases import HF_SWIN, Int8Case, make_case
from benchmarks.int8_tools import Job
from benchmarks.past_rows import Resumed
from benchmarks.processes import PEERS_PYTHON, run_job
from benchmarks.rows import append_row
from edgeattn.calibration.judge import OutputJudge
from edgeattn.calibration.recipe import recipe_names
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import EdgeAttnError
from edgeattn.graph.compare import compare_arrays, top1_accuracy
from edgeattn.graph.files import load_graph
from edgeattn.models.registry import model_names

MODELS = ("mswin_nano", "pmsa_nano", "msseq_nano", HF_SWIN)

# Samples to calibrate with and to judge by: all there are of their own, fewer of borrowed ones.
SMALL = (1000, 1000)
LARGE = (32, 32)


@dataclass(frozen=True)
class Way:
    """One way to quantize.

    Attributes:
        tool: See `int8_tools.Job`.
        method: How it finds ranges.
        recipe: How much edgeattn quantizes.
        options: Further arguments of `edgeattn.quantize`.
        batch_size: Samples that another tool sees at once, where the graph leaves that free.
    """

    tool: str
    method: str
    recipe: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    batch_size: int = 1

    @property
    def case(self) -> dict[str, Any]:
        """What rows are matched by."""
        return {
            "tool": self.tool,
            "method": self.method,
            "recipe": self.recipe,
            "options": dict(self.options),
            "batch_size": self.batch_size,
        }

    def __str__(self) -> str:
        words = [self.tool, self.method, self.recipe, *self.options]
        if self.batch_size > 1:
            words.append(f"batch {self.batch_size}")
        return " ".join(word for word in words if word)


FLOAT = Way("float", "")

# What `edgeattn calibrate --recipe` does with a shipped model, on the same samples as all others.
SHIPPED = Way("edgeattn", "recipe", "linear")
METHODS = ("auto", "minmax", "average", "percentile", "entropy", "mse")
BIAS, BALANCE = {"correct_bias": True}, {"balance": 0.5}

OURS = (
    SHIPPED,
    *(Way("edgeattn", method, "linear") for method in METHODS),
    *(Way("edgeattn", "auto", "linear", options) for options in (BIAS, BALANCE, BIAS | BALANCE)),
    *(Way("edgeattn", method, "attention") for method in ("auto", "minmax")),
    Way("edgeattn", "auto", "attention", BIAS),
    *(Way("edgeattn", method, "full") for method in ("auto", "minmax")),
)
# A free batch is 1 to modelopt unless it is told otherwise; its entropy comes out differently.
PEERS = (
    *(Way("onnxruntime", method) for method in ("minmax", "entropy", "percentile")),
    *(Way("modelopt", method) for method in ("max", "entropy")),
    Way("modelopt", "entropy", batch_size=8),
)
REGISTRY_WAYS = tuple(Way("edgeattn", method, "linear") for method in ("minmax", "auto"))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--registry", action="store_true", help="auto against min-max, every model")
    parser.add_argument("--no-peers", action="store_true", help="edgeattn alone")
    parser.add_argument("--samples", type=int, help="most samples to calibrate with and judge by")
    parser.add_argument("--resume", action="store_true", help="leave out what was measured today")
    arguments = parser.parse_args()
    for model in arguments.models or (model_names() if arguments.registry else MODELS):
        sizes = SMALL if model in recipe_names() else LARGE
        if arguments.samples:
            sizes = (arguments.samples, arguments.samples)
        if arguments.registry:
            name, ways = "registry_methods", REGISTRY_WAYS
        else:
            name, ways = "accuracy", ways_for(model, peers=not arguments.no_peers)
        resumed = Resumed(name, arguments.resume)
        wanted = [way for way in ways if resumed.result({"model": model} | way.case) is None]
        if wanted:
            with tempfile.TemporaryDirectory() as folder:
                case = make_case(model, Path(folder), calibration=sizes[0], held_out=sizes[1])
                AccuracyRun(case, Path(folder), name).run(wanted)


def ways_for(model: str, *, peers: bool) -> list[Way]:
    """List the ways to quantize a model that make sense on this machine."""
    ways = [way for way in (FLOAT, *OURS) if way != SHIPPED or model in recipe_names()]
    for way in PEERS if peers else ():
        if way.tool == "modelopt" and not PEERS_PYTHON.exists():
            print(f"{way}: not here, run `make peers`")
        elif model != HF_SWIN or not is_for_small_models(way):
            ways.append(way)
    return ways


def is_for_small_models(way: Way) -> bool:
    """Tell whether a way is left out where an image has 224x224 pixels.

    onnxruntime keeps every activation of every sample, 0.3 GB per image, except for min-max; and
    a graph for one image leaves no other batch.
    """
    return way.batch_size > 1 or (way.tool == "onnxruntime" and way.method != "minmax")


class AccuracyRun:
    """One model, its float outputs on the held-out samples, its tables.

    Args:
        case: The model.
        folder: Where graphs and tables go.
        benchmark: Name of the rows.
    """

    def __init__(self, case: Int8Case, folder: Path, benchmark: str) -> None:
        self._case = case
        self._folder = folder
        self._benchmark = benchmark
        self._judge = OutputJudge(load_graph(case.graph), {"input": case.held_out})
        self._tables: dict[str, Path] = {}

    def run(self, ways: Sequence[Way]) -> None:
        """Quantize the model in each way, print what that costs and keep the rows."""
        case = self._case
        print(f"\n{case.name}: {len(case.calibration)} samples, {len(case.held_out)} held out")
        for way in ways:
            start = time.perf_counter()
            found = self.measure(way) | {"seconds": time.perf_counter() - start}
            print(f"{way!s:44} {describe(found)}", flush=True)
            counts = {
                "calibration_samples": len(case.calibration),
                "held_out_samples": len(case.held_out),
            }
            append_row(self._benchmark, {"model": case.name} | way.case, found | counts)

    def measure(self, way: Way) -> dict[str, Any]:
        """Quantize in one way, and compare with the float graph; `failed` if the tool gave up."""
        output = self._folder / "int8.onnx"
        try:
            if way == FLOAT:
                output, found = self._case.graph, {}
            elif way.tool == "edgeattn":
                found = self._quantize(way, output)
            else:
                found = self._quantize_with_peer(way, output)
        except EdgeAttnError as err:
            found = {"failed": err.message}
        if "failed" in found:
            return found
        (reference,) = self._judge.reference.values()
        (outputs,) = self._judge.outputs(load_graph(output)).values()
        return accuracy(reference, outputs, self._case.labels) | found

    def _quantize(self, way: Way, output: Path) -> dict[str, Any]:
        case, options = self._case, dict(way.options)
        if "correct_bias" in options:
            options["data"] = case.calibration
        if way.method not in self._tables:
            path = self._folder / f"{way.method}.calib.json"
            how = {"recipe": case.name} if way == SHIPPED else {"method": way.method}
            self._tables[way.method] = edgeattn.calibrate(case.graph, case.calibration, path, **how)
        table = self._tables[way.method]
        edgeattn.quantize(case.graph, output, table=table, recipe=way.recipe, **options)
        chosen = Counter(entry.method for entry in CalibTable.load(table).tensors.values())
        return {"methods": dict(sorted(chosen.items()))}

    def _quantize_with_peer(self, way: Way, output: Path) -> dict[str, Any]:
        case, samples = self._case, self._folder / "samples.npy"
        np.save(samples, case.calibration)
        job = Job(
            way.tool,
            way.method,
            str(case.plain),
            str(samples),
            len(case.calibration),
            str(output),
            way.batch_size,
        )
        return {key: value for key, value in run_job(job).items() if key == "failed"}


def accuracy(
    reference: np.ndarray, outputs: np.ndarray, labels: np.ndarray | None
) -> dict[str, Any]:
    """Give the figures of one quantized model.

    Args:
        reference: Outputs of the float graph, `[samples, classes]`.
        outputs: Outputs of the quantized graph.
        labels: `[samples]`, or `None`.
    """
    comparison = compare_arrays(reference, outputs)
    found = comparison.to_dict()
    names = ("sqnr_db", "centred_sqnr_db", "top1_agreement")
    figures: dict[str, Any] = {name: found[name] for name in names}
    if labels is not None:
        top1 = top1_accuracy(outputs, labels)
        figures |= {"top1": top1, "top1_standard_error": standard_error(top1, len(labels))}
    return figures


def standard_error(percent: float, count: int) -> float:
    """Estimate the standard error of an accuracy, in points.

    One success and one failure are added to those observed (Laplace's rule): without them an
    accuracy of 100 % would seem to be known exactly.
    """
    share = (percent / 100 * count + 1) / (count + 2)
    return 100 * math.sqrt(share * (1 - share) / (count + 2))


def describe(found: Mapping[str, Any]) -> str:
    """Write figures down for the terminal."""
    if "failed" in found:
        return f"failed: {found['failed']}"
    parts = []
    if found.get("sqnr_db") is not None:
        parts.append(f"{found['sqnr_db']:6.2f} dB, centred {found['centred_sqnr_db']:6.2f} dB")
    if "top1" in found:
        parts.append(f"top-1 {found['top1']:.2f} ± {found['top1_standard_error']:.2f} %")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
