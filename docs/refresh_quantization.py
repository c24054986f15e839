"""Write the tables of docs/quantization.md from the newest rows of the benchmarks.

`make quantization-page` measures first; this script alone only writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = Path(__file__).parent / "quantization.md"
sys.path.insert(0, str(ROOT))  # the benchmarks are no installed package

from benchmarks.bench_accuracy import FLOAT, MODELS, OURS, PEERS, SHIPPED, Way  # noqa: E402
from benchmarks.bench_calibration import FLOOR, IMAGES, WAYS  # noqa: E402
from benchmarks.int8_cases import HF_SWIN  # noqa: E402
from benchmarks.pages import markdown, with_origin, write_blocks  # noqa: E402
from benchmarks.past_rows import Row, past_rows  # noqa: E402
from edgeattn.models.registry import model_names  # noqa: E402

NAMES = {
    "edgeattn": "edgeattn",
    "onnxruntime": "ONNX Runtime",
    "modelopt": "nvidia-modelopt",
    "float": "FP32",
}
OPTIONS = {"correct_bias": "`--correct-bias`", "balance": "`--balance 0.5`"}

Cell = Callable[[Mapping[str, Any]], str]


def main() -> None:
    """Replace the blocks of the page."""
    accuracy, methods = newest("accuracy"), newest("registry_methods")
    calibration = newest("calibration_cost")
    measured = "python -m benchmarks.bench_{}"
    tables = {
        "sqnr": (f"{accuracy_table(accuracy, MODELS, sqnr)}\n\n{margins(accuracy)}", accuracy),
        "top1": (accuracy_table(accuracy, [m for m in MODELS if m != HF_SWIN], top1), accuracy),
        "registry": (registry_table(methods), methods),
        "cost": (cost_table(calibration), calibration),
        "search": (search_table(calibration), calibration),
    }
    commands = {"registry": "accuracy --registry", "cost": "calibration", "search": "calibration"}
    write_blocks(
        PAGE,
        {
            name: with_origin(block, measured.format(commands.get(name, "accuracy")), rows)
            for name, (block, rows) in tables.items()
        },
    )


def newest(benchmark: str) -> list[Row]:
    """Read the newest row of each case."""
    rows: dict[str, Row] = {}
    for row in past_rows(benchmark):
        rows[repr(sorted(row["case"].items(), key=str))] = row
    return list(rows.values())


def find(rows: Sequence[Row], case: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Give the result of a case."""
    results: list[Mapping[str, Any]] = [row["result"] for row in rows if row["case"] == case]
    return results[0] if results else None


def sqnr(result: Mapping[str, Any]) -> str:
    """Write an output SQNR, centred."""
    value = result["centred_sqnr_db"]
    return "exact" if value is None else f"{value:.1f}"


def top1(result: Mapping[str, Any]) -> str:
    """Write an accuracy with its standard error."""
    return f"{result['top1']:.2f} ± {result['top1_standard_error']:.2f}"


def accuracy_table(rows: Sequence[Row], models: Sequence[str], cell: Cell) -> str:
    """Write one figure of every way to quantize, a column per model."""
    ways = [FLOAT, *OURS, *PEERS] if cell is top1 else [*OURS, *PEERS]
    lines = []
    for way in ways:
        cells = []
        for model in models:
            result = find(rows, {"model": model} | way.case)
            if result is None:
                cells.append("")
            else:
                cells.append("failed" if "failed" in result else cell(result))
        if any(cells):
            lines.append((label(way), *cells))
    return markdown(("", *(f"`{model}`" for model in models)), lines)


def label(way: Way) -> str:
    """Name a way to quantize."""
    name = NAMES[way.tool]
    if way.tool == "edgeattn":
        name = f"**{name}**"
        method = "its recipe" if way == SHIPPED else way.method
        words = [f"{name}, `{way.recipe}`, {method}", *(OPTIONS[o] for o in way.options)]
        return " ".join(words)
    batch = f", batch {way.batch_size}" if way.batch_size > 1 else ""
    return f"{name}, {way.method}{batch}" if way.method else name


def margins(rows: Sequence[Row]) -> str:
    """Say how far what a user gets is above the best other tool, model by model."""
    ours = [way for way in OURS if (way.method, way.recipe) == ("auto", "linear")]
    default, corrected = ours[0], next(w for w in ours if set(w.options) == {"correct_bias"})
    parts = []
    for model in MODELS:
        known = {}
        for way in (SHIPPED, default, corrected, *PEERS):
            result = find(rows, {"model": model} | way.case)
            if result is not None and "failed" not in result:
                known[way] = result["centred_sqnr_db"]
        peers = [way for way in PEERS if way in known]
        if default in known and peers:
            best = max(peers, key=lambda way: known[way])
            words = {SHIPPED: "with its recipe", default: "auto", corrected: "`--correct-bias`"}
            above = ", ".join(
                f"{words[way]} {known[way] - known[best]:+.1f} dB" for way in words if way in known
            )
            parts.append(f"- `{model}`: {above} ({label(best)})")
    return "\n".join(["Against the best of the other tools:", "", *parts])


def registry_table(rows: Sequence[Row]) -> str:
    """Write min-max and the default beside each other for every model."""
    lines = []
    for model in model_names():
        found = {
            method: find(rows, {"model": model} | Way("edgeattn", method, "linear").case)
            for method in ("minmax", "auto")
        }
        minmax, auto = found["minmax"], found["auto"]
        if minmax is None or auto is None or "failed" in minmax or "failed" in auto:
            continue
        difference = auto["centred_sqnr_db"] - minmax["centred_sqnr_db"]
        chosen = ", ".join(f"{count} {name}" for name, count in auto["methods"].items())
        lines.append((f"`{model}`", sqnr(minmax), sqnr(auto), f"{difference:+.2f}", chosen))
    return markdown(("", "minmax", "auto", "difference", "tensors and their method"), lines)


def cost_table(rows: Sequence[Row]) -> str:
    """Write time and memory of calibration, a column per number of images."""
    lines = []
    for tool, method in ((FLOOR, ""), *WAYS):
        cells = []
        for count in IMAGES:
            case = {"graph": HF_SWIN, "tool": tool, "method": method, "images": count}
            cells.append(cost(find(rows, case)))
        if any(cells):
            name = "running the images" if tool == FLOOR else f"{NAMES[tool]}, {method}"
            lines.append((f"**{name}**" if tool == "edgeattn" else name, *cells))
    return markdown(("", *(f"{count} images" for count in IMAGES)), lines)


def cost(result: Mapping[str, Any] | None) -> str:
    """Write time, its ratio to the floor, and memory."""
    if result is None:
        return ""
    if "failed" in result:
        if result["failed"].startswith("not tried"):
            return "not tried"
        limit = result["memory_limit_mib"] / 1024
        return f"failed at the limit of {limit:.0f} GiB after {result['seconds']:.0f} s"
    ratio = result.get("ratio_to_floor")
    of_floor = "" if ratio is None else f" ({ratio:.2f}x)"
    if ratio is not None and "calibrate_s" in result:
        calibrating = ratio * result["calibrate_s"] / result["seconds"]
        of_floor = f" ({ratio:.2f}x; the table {calibrating:.2f}x)"
    return f"{result['seconds']:.1f} s{of_floor}, {result['peak_mib'] / 1024:.2f} GiB"


def search_table(rows: Sequence[Row]) -> str:
    """Write the time that the search for thresholds takes."""
    lines = []
    for row in rows:
        case, result = row["case"], row["result"]
        if "search" in case:
            seconds, tensors = result["seconds"], case["tensors"]
            each = f"{1000 * seconds / tensors:.2f}"
            name = f"{NAMES[case['tool']]}, {case['search']}"
            lines.append((name, str(tensors), f"{seconds:.2f}", each))
    return markdown(("", "tensors", "seconds", "ms per tensor"), lines)


if __name__ == "__main__":
    main()
