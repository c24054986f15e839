"""What INT8 costs in accuracy, method by method, beside onnxruntime's and nvidia-modelopt's.

Each tool quantizes the same float graph with the same samples. All results run on the same
held-out samples, in ONNX Runtime with its integer kernels off, so that the figures are those of the
graphs and not of the processor. Tools that do not know edgeattn's attention node get the graph in
standard operators (`edgeattn.graph.passes.decompose`), which computes the same.

    python -m benchmarks.bench_accuracy [MODEL]... [--registry] [--no-peers]

`--registry` compares the default method with min-max on every model of the registry instead.
`make peers` installs nvidia-modelopt; without it its rows are left out.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import edgeattn
from benchmarks.int8_cases import HF_SWIN, Int8Case, make_case
from benchmarks.int8_tools import Job
from benchmarks.processes import PEERS_PYTHON, run_job
from benchmarks.rows import append_row
from edgeattn.calibration.judge import OutputJudge
from edgeattn.calibration.table import CalibTable
from edgeattn.graph.compare import compare_arrays, top1_accuracy
from edgeattn.graph.files import load_graph
from edgeattn.models.registry import model_names

MODELS = ("mswin_nano", "pmsa_nano", "msseq_nano", HF_SWIN)

# Samples to calibrate with and to judge by: all there are, fewer where an image takes long.
SMALL = (1000, 1000)
LARGE = (32, 64)
REGISTRY = (16, 16)


@dataclass(frozen=True)
class Way:
    """One way to quantize.

    Attributes:
        tool: See `int8_tools.Job`.
        method: How it finds ranges.
        recipe: How much edgeattn quantizes.
        options: Further arguments of `edgeattn.quantize`.
    """

    tool: str
    method: str
    recipe: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def case(self) -> dict[str, Any]:
        """What rows are matched by."""
        return {
            "tool": self.tool,
            "method": self.method,
            "recipe": self.recipe,
            "options": dict(self.options),
        }

    def __str__(self) -> str:
        options = [f"{name} {value}" for name, value in self.options.items()]
        return " ".join([self.tool, self.method, self.recipe, *options]).rstrip()


OURS = (
    *(Way("edgeattn", m, "linear") for m in ("auto", "minmax", "percentile", "entropy", "mse")),
    *(Way("edgeattn", m, r) for r in ("attention", "full") for m in ("auto", "minmax")),
)
PEERS = (
    *(Way("onnxruntime", method) for method in ("minmax", "entropy", "percentile")),
    *(Way("modelopt", method) for method in ("max", "entropy")),
)
# onnxruntime keeps every activation of every sample for these: 0.3 GB per image of 224x224.
HUNGRY = (Way("onnxruntime", "entropy"), Way("onnxruntime", "percentile"))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--registry", action="store_true", help="auto against min-max, every model")
    parser.add_argument("--no-peers", action="store_true", help="edgeattn alone")
    parser.add_argument("--samples", type=int, help="most samples to calibrate with and judge by")
    arguments = parser.parse_args()
    models = arguments.models or (model_names() if arguments.registry else MODELS)
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            sizes = REGISTRY if arguments.registry else LARGE if model == HF_SWIN else SMALL
            if arguments.samples:
                sizes = (arguments.samples, arguments.samples)
            case = make_case(model, Path(folder), calibration=sizes[0], held_out=sizes[1])
            if arguments.registry:
                run_methods(case, Path(folder))
            else:
                run_case(case, Path(folder), peers=not arguments.no_peers)


def run_case(case: Int8Case, folder: Path, *, peers: bool) -> None:
    """Quantize one model in every way, print what that costs and keep the rows."""
    judge = OutputJudge(load_graph(case.graph), {"input": case.held_out})
    reference = _output(judge.reference)
    floats = accuracy(reference, reference, case.labels)
    print(f"\n{case.name}: {describe(floats)}", flush=True)
    append_row("accuracy", {"model": case.name, "tool": "float"}, floats | _counts(case))
    for way, path, found in quantized(case, folder, peers=peers):
        if path is not None:
            outputs = _output(judge.outputs(load_graph(path)))
            found = accuracy(reference, outputs, case.labels) | found
        print(f"{way!s:44} {describe(found)}", flush=True)
        append_row("accuracy", {"model": case.name} | way.case, found | _counts(case))


def quantized(
    case: Int8Case, folder: Path, *, peers: bool
) -> Iterator[tuple[Way, Path | None, dict[str, Any]]]:
    """Quantize a model in every way that there is.

    Yields:
        The way, the graph (`None` if the tool gave up), and what is known of it.
    """
    tables: dict[str, Path] = {}
    for number, way in enumerate(OURS):
        if way.method not in tables:
            tables[way.method] = calibrated(case, way.method, folder)
        table = tables[way.method]
        output = folder / f"{number}.onnx"
        edgeattn.quantize(case.graph, output, table=table, recipe=way.recipe, **way.options)
        yield way, output, _chosen(table)
    if not peers:
        return
    samples = folder / "samples.npy"
    np.save(samples, case.calibration)
    for way in PEERS:
        if way.tool == "modelopt" and not PEERS_PYTHON.exists():
            print(f"{way!s:44} not here: run `make peers`")
        elif way in HUNGRY and case.name == HF_SWIN:
            print(f"{way!s:44} not run: it would keep 0.3 GB per image")
        else:
            output = folder / f"{way.tool}-{way.method}.onnx"
            job = Job(
                way.tool,
                way.method,
                str(case.plain),
                str(samples),
                len(case.calibration),
                str(output),
                case.batch_size,
            )
            found = run_job(job)
            failed = {key: found[key] for key in ("failed",) if key in found}
            yield way, None if failed else output, failed


def run_methods(case: Int8Case, folder: Path) -> None:
    """Compare the default method with min-max on a model, print the figures and keep the rows."""
    judge = OutputJudge(load_graph(case.graph), {"input": case.held_out})
    reference = _output(judge.reference)
    for method in ("minmax", "auto"):
        start = time.perf_counter()
        table = calibrated(case, method, folder)
        seconds = time.perf_counter() - start
        typed = edgeattn.quantize(case.graph, folder / "int8.onnx", table=table)
        outputs = _output(judge.outputs(load_graph(typed)))
        found = accuracy(reference, outputs, case.labels) | _chosen(table) | {"seconds": seconds}
        print(f"{case.name:14} {method:8} {describe(found)} {seconds:7.1f} s", flush=True)
        append_row(
            "registry_methods", {"model": case.name, "method": method}, found | _counts(case)
        )


def calibrated(case: Int8Case, method: str, folder: Path) -> Path:
    """Calibrate a model on the samples for that."""
    return edgeattn.calibrate(
        case.graph, case.calibration, folder / f"{method}.calib.json", method=method
    )


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


def _chosen(table: Path) -> dict[str, Any]:
    """Count the methods that the tensors of a table got."""
    methods = [entry.method for entry in CalibTable.load(table).tensors.values()]
    return {"methods": {name: methods.count(name) for name in sorted(set(methods))}}


def _counts(case: Int8Case) -> dict[str, int]:
    return {"calibration_samples": len(case.calibration), "held_out_samples": len(case.held_out)}


def _output(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    (array,) = outputs.values()
    return array


if __name__ == "__main__":
    main()
