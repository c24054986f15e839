"""Rows to make pages of. The figures are made up, the forms are those of real rows."""

from __future__ import annotations

import copy
import functools
import hashlib
import random
from typing import Any

from edgeattn.sweep.cases import Case
from edgeattn.sweep.figures import conditions, figures
from edgeattn.sweep.run import make_row
from tests.edgeattn.profiling.page import reports

BOARDS = {"orin-nano": (1.0, "15W"), "agx-orin": (0.42, "MAXN")}
# By precision: share of FP32's latency, of its size, points of top-1 lost, noise.
PRECISIONS = {
    "fp32": (1.0, 1.0, 0.0, 128.0),
    "fp16": (0.52, 0.52, 0.05, 68.0),
    "int8": (0.47, 0.31, 1.9, 31.0),
    "int8+fp16": (0.36, 0.29, 0.8, 34.0),
}
MODELS = {"mswin_nano": (1.0, 71.0, 4.1), "mswin_tiny": (3.1, 78.5, 28.3)}
ACCURACY = (
    *("sqnr_db", "cosine", "max_abs_error", "max_rel_error"),
    *("top1_agreement", "top1_a", "top1_b", "top1_drop"),
)


def row(
    model: str = "mswin_nano",
    precision: str = "fp32",
    batch_size: int = 1,
    board: str = "orin-nano",
    *,
    seed: int = 0,
    labels: bool = True,
    energy: bool = True,
    **figures_too: Any,
) -> dict[str, Any]:
    """Make up the row of one case."""
    draw = random.Random(f"{model} {precision} {batch_size} {board} {seed}")
    (slow, top1, size), (faster, smaller, lost, noise) = MODELS[model], PRECISIONS[precision]
    speed, power_mode = BOARDS.get(board, (1.0, ""))
    ms = 6.2 * slow * faster * speed * batch_size**0.85 * draw.uniform(0.97, 1.03)
    case = case_of(model, precision, batch_size, board)
    accuracy = {"top1_a": top1, "top1_b": top1 - lost, "top1_drop": lost}
    kept, under = copy.deepcopy(_of_a_report())
    found = kept | {
        "p50_ms": ms,
        "p50_interval_ms": [0.985 * ms, 1.012 * ms],
        "p99_ms": 1.13 * ms,
        "throughput_qps": 1e3 / ms,
        "engine_bytes": int(size * smaller * 1e6),
        "clock_mhz": 1020.0,
        "sqnr_db": noise,
        **(accuracy if labels else dict.fromkeys(accuracy)),
    }
    told = dict.fromkeys(("energy_mj", "energy_std_error_mj", "idle_mw", "power_mw"))
    found |= {} if energy else told
    if energy:
        found |= {"energy_mj": 9.1 * ms, "energy_std_error_mj": 0.12 * ms}
    result = {
        "figures": found | figures_too,
        "made_from": {},
        "shapes": {"input": [batch_size, 3, 224, 224]},
        "samples": "given",
        **under,
        "power_mode": power_mode,
    }
    return make_row(case, {"result": result}, 12.5)


@functools.cache
def _of_a_report() -> tuple[dict[str, Any], dict[str, Any]]:
    """Take what rows take from a report, of a board that kept its clocks."""
    report = reports.full_report(12) | {"warnings": []}
    report["verdict"] = {"word": "stable", "reasons": ["the GPU's clock stayed at 1020 MHz"]}
    return figures(report, dict.fromkeys(ACCURACY, 0.5), 512), conditions(report)


def case_of(model: str, precision: str, batch_size: int, board: str) -> Case:
    """Make up a case as a file of a sweep would give it."""
    text = f"{model} {precision} {batch_size} {board}"
    parameters = {
        "model": model,
        "precision": precision,
        "batch_size": batch_size,
        "resolution": "",
        "engine": "tensorrt",
        "options": "",
        "board": board,
        "measure": {"duration_s": 3, "mode": "trtexec-11"},
    }
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Case(digest, parameters, {"accuracy": "ab" * 32}, {})


def failed_row(*axes: Any) -> dict[str, Any]:
    """Make up the row of a case whose engine could not be built."""
    error = {
        "kind": "BuildError",
        "message": "could not find any implementation for node <attention_3>",
        "hint": "memory: give a smaller workspace, or close what else runs",
        "step": "build",
    }
    return make_row(case_of(*axes), {"error": error}, 41.0)


def sweep() -> list[dict[str, Any]]:
    """Make up a sweep over two boards, two batch sizes, two models and four precisions."""
    rows = [
        row(model, precision, batch_size, board)
        for board in BOARDS
        for batch_size in (1, 8)
        for model in MODELS
        for precision in PRECISIONS
    ]
    rows[12] |= {"verdict": "throttled", "verdict_reasons": ["over-current, seen 9 times"]}
    rows[6]["warnings"] = ["the latency varies: its coefficient of variation is 3.1 %"]
    rows[15] = failed_row("mswin_tiny", "int8+fp16", 8, "orin-nano")
    return rows
