"""The main path on the shipped model and images: read this file to see the toolkit used.

Export, calibrate, quantize, build, compare, profile: each step is one call of the public API, from
a file to a file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgeattn
from edgeattn.arrays import LABEL_KEY, read_arrays
from edgeattn.artifacts import data_folder, read_manifest, sha256_of_file, tool_versions
from edgeattn.errors import ArtifactError, EngineError
from edgeattn.models.registry import get_entry
from edgeattn.profiling.report_files import ReportFiles

Progress = Callable[[int, "int | None", str], None]

MODEL = "mswin_nano"
CALIBRATION = Path("samples/mnist/calibration")
HELD_OUT = Path("samples/mnist/heldout.npz")
PROFILE_SECONDS = 2.0


@dataclass(frozen=True)
class DemoRow:
    """One engine of the demo.

    Attributes:
        precision: `FP32` or `INT8`.
        top1: Percent of the held-out images classified right.
        p50_ms: Median latency of one image.
        p99_ms: 99th percentile; `None` under 100 samples.
        throughput_qps: Images per second, one after the other.
        size_bytes: Size of the engine on disk.
        sqnr_db: Signal to quantization noise of the outputs against FP32; `None` for FP32.
        engine: The engine's file.
    """

    precision: str
    top1: float
    p50_ms: float
    p99_ms: float | None
    throughput_qps: float
    size_bytes: int
    sqnr_db: float | None
    engine: Path


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        rows: One per engine, FP32 first.
        num_images: Held-out images that the accuracy is measured on.
        int8_arithmetic: How the CPU engine computes INT8: `fused` or `unfused`.
        files: Every file written, in the order of the main path.
    """

    rows: tuple[DemoRow, ...]
    num_images: int
    int8_arithmetic: str
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Turn the result into JSON values."""
        rows = [asdict(row) | {"engine": str(row.engine)} for row in self.rows]
        return asdict(self) | {"rows": rows, "files": [str(file) for file in self.files]}


def run_demo(folder: Path | str = "demo", progress: Progress | None = None) -> DemoResult:
    """Walk the main path with the shipped weights and images on the embedded engine.

    Args:
        folder: Where the files go; made if missing.
        progress: Called with steps done, steps in all, and the step at hand.

    Raises:
        ArtifactError: If the folder cannot be written, or shipped files are missing.
        EngineError: If the comparison measured no accuracy.
        MissingDependencyError: If torch or onnxscript is not installed.
    """
    report = progress or (lambda done, total, what: None)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ArtifactError(f"the folder {folder} cannot be made: {err.strerror}") from err
    steps = ("export", "calibrate", "quantize", "build", "compare", "profile")

    report(0, len(steps), steps[0])
    graph = _exported(folder / f"{MODEL}.onnx")

    report(1, len(steps), steps[1])
    images = data_folder("calib") / CALIBRATION
    table = edgeattn.calibrate(graph, images, folder / f"{MODEL}.calib.json", recipe=MODEL)

    report(2, len(steps), steps[2])
    typed = edgeattn.quantize(graph, folder / f"{MODEL}.int8.onnx", table=table)

    report(3, len(steps), steps[3])
    plans = {
        "FP32": edgeattn.build(graph, folder / f"{MODEL}.engine", engine="cpu"),
        "INT8": edgeattn.build(typed, folder / f"{MODEL}.int8.engine", engine="cpu"),
    }

    report(4, len(steps), steps[4])
    inputs, labels = held_out()
    comparison = edgeattn.compare(plans["FP32"], plans["INT8"], inputs, labels, latency=False)
    top1 = {"FP32": _measured(comparison.top1_a), "INT8": _measured(comparison.top1_b)}

    rows: list[DemoRow] = []
    reports: list[Path] = []
    for precision, plan in plans.items():
        report(5, len(steps), f"{steps[5]} {precision}")
        files = _report_files(plan)
        reports += files.paths().values()
        one_image = {name: array[:1] for name, array in inputs.items()}
        measured = edgeattn.profile(
            plan, one_image, duration_s=PROFILE_SECONDS, layers=True, output=files
        )
        rows.append(
            DemoRow(
                precision=precision,
                top1=top1[precision],
                p50_ms=measured.latency.p50_ms,
                p99_ms=measured.latency.p99_ms,
                throughput_qps=measured.throughput_qps,
                size_bytes=plan.stat().st_size,
                sqnr_db=comparison.figures()["sqnr_db"] if precision == "INT8" else None,
                engine=plan,
            )
        )
    report(len(steps), len(steps), "done")
    arithmetic = str(read_manifest(plans["INT8"]).report.get("int8_arithmetic", ""))
    written = (graph, table, typed, *plans.values(), *reports)
    return DemoResult(tuple(rows), len(labels), arithmetic, written)


def held_out() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Read the held-out images, which no step of training or calibration has seen.

    Returns:
        Model inputs by name, `input` float32 `[N, 1, 28, 28]`, and labels `[N]`.

    Raises:
        ArtifactError: If the shipped file is missing or holds no labels.
    """
    path = data_folder("calib") / HELD_OUT
    if not path.is_file():
        raise ArtifactError(f"the shipped images {path} are missing", "reinstall edgeattn")
    arrays = read_arrays(path)
    if LABEL_KEY not in arrays:
        raise ArtifactError(f"the shipped images {path} have no labels", "reinstall edgeattn")
    labels = arrays.pop(LABEL_KEY)
    return arrays, labels


def _report_files(plan: Path) -> ReportFiles:
    """Name a report, and its page where jinja2 is there to make one."""
    has_jinja2 = importlib.util.find_spec("jinja2") is not None
    html = plan.with_suffix(".html") if has_jinja2 else None
    return ReportFiles(report=plan.with_suffix(".profile.json"), html=html)


def _measured(top1: float | None) -> float:
    """Refuse to print an accuracy that nobody measured."""
    if top1 is None:
        raise EngineError("the comparison gave no accuracy; expected one on the held-out labels")
    return top1


def _exported(path: Path) -> Path:
    """Export the model, unless the file is there from the same weights and tools.

    Tracing takes longer than all other steps together; a second run of the demo takes seconds.
    """
    weights = get_entry(MODEL).weights
    if weights is None:
        raise ArtifactError(f"the shipped weights of {MODEL} are missing", "reinstall edgeattn")
    try:
        manifest = read_manifest(path)
        known = manifest.parents.get("weights")
        same_weights = known is not None and known.sha256 == sha256_of_file(weights)
        if same_weights and manifest.tools == tool_versions():
            return path
    except ArtifactError:
        pass
    return edgeattn.export(MODEL, output=path)
