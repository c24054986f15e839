"""Which ranges suit each shipped model: the largest magnitudes seen, or a percentile of them?

For each recipe in `calib/recipes` its model is quantized with either method, and the INT8 engine is
compared with the FP32 engine: signal to quantization noise (SQNR) of the outputs, no labels. The
recipes follow what is measured on the calibration data. The held-out data are measured beside it,
to show how far such a choice carries, and choose nothing.

    python -m benchmarks.bench_calibration [MODEL]...
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import edgeattn
from benchmarks.rows import append_row
from edgeattn.arrays import LABEL_KEY, read_arrays
from edgeattn.artifacts import read_manifest
from edgeattn.calibration.data import open_batches
from edgeattn.calibration.observers import METHODS
from edgeattn.calibration.recipe import load_recipe, recipe_names
from edgeattn.graph.files import input_specs, load_graph


def calibration_inputs(graph: Path, recipe: str) -> dict[str, np.ndarray]:
    """Read every sample of a recipe's data, `[samples, ...]` by input name."""
    options = load_recipe(recipe)
    read = list(open_batches(options.data, input_specs(load_graph(graph))))
    return {name: np.concatenate([batch[name] for batch in read]) for name in read[0]}


def held_out_inputs(recipe: str) -> dict[str, np.ndarray]:
    """Read the held-out samples that lie beside a recipe's data."""
    folder = Path(load_recipe(recipe).data).parent
    arrays = read_arrays(folder / "heldout.npz")
    return {name: array for name, array in arrays.items() if name != LABEL_KEY}


def run_model(model: str, folder: Path) -> None:
    """Measure both methods on one model, print the figures and keep the rows."""
    graph = edgeattn.export(model, output=folder / f"{model}.onnx")
    plan = edgeattn.build(graph, folder / f"{model}.engine")
    sets = {
        "calibration": calibration_inputs(graph, model),
        "held out": held_out_inputs(model),
    }
    for method in METHODS:
        table = edgeattn.calibrate(graph, recipe=model, method=method)
        typed = edgeattn.quantize(graph, table=table)
        int8_plan = edgeattn.build(typed, folder / f"{model}.int8.engine")
        arithmetic = read_manifest(int8_plan).report["int8_arithmetic"]
        for data, inputs in sets.items():
            comparison = edgeattn.compare(plan, int8_plan, inputs, latency=False)
            count, sqnr_db = comparison.num_samples, comparison.figures()["sqnr_db"]
            print(f"{model:12}{method:12}{data:13}{count:5} samples{sqnr_db:7.2f} dB")
            case = {"model": model, "method": method, "data": data}
            result = {"sqnr_db": sqnr_db, "num_samples": count, "int8_arithmetic": arithmetic}
            append_row("calibration", case, result)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all with a recipe")
    arguments = parser.parse_args()
    for model in arguments.models or recipe_names():
        with tempfile.TemporaryDirectory() as folder:
            run_model(model, Path(folder))


if __name__ == "__main__":
    main()
