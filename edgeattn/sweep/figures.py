"""What a row keeps of the report of its case: the figures, and what they were measured under."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from edgeattn.profiling.board.sample import BoardTrace
from edgeattn.profiling.board.verdict import Device, device_clock_mhz
from edgeattn.profiling.modes import has_device

_STATISTICS = ("p50", "p90", "p95", "p99", "p99_9", "mean", "std", "min", "max")
_ACCURACY = (
    "sqnr_db",
    "cosine",
    "max_abs_error",
    "max_rel_error",
    "top1_agreement",
    "top1_a",
    "top1_b",
    "top1_drop",
)
# By what a row calls it; the report's `energy` has it.
_ENERGY = {
    "energy_mj": "mj",
    "energy_std_error_mj": "std_error_mj",
    "idle_mw": "idle_mw",
    "power_mw": "busy_mw",
}


def figures(
    report: Mapping[str, Any], accuracy: Mapping[str, float | None], num_samples: int
) -> dict[str, Any]:
    """Choose the figures of a row.

    Args:
        report: `LatencyReport.to_dict()`.
        accuracy: `Comparison.figures()` against the FP32 graph.
        num_samples: How many samples were compared.

    Returns:
        Numbers by name, `None` where the report has none.
    """
    latency = report["latency"]
    energy, sustained = report.get("energy") or {}, report.get("sustained") or {}
    return {
        **{f"{name}_ms": latency[f"{name}_ms"] for name in _STATISTICS},
        "cv_percent": latency["cv_percent"],
        "num_queries": latency["num_samples"],
        "p50_interval_ms": latency.get("p50_interval_ms"),
        "throughput_qps": report["throughput_qps"],
        **{name: energy.get(key) for name, key in _ENERGY.items()},
        **_board_figures(report),
        "drift_percent": sustained.get("drift_percent"),
        "accuracy_samples": num_samples,
        **{name: accuracy[name] for name in _ACCURACY},
    }


def conditions(report: Mapping[str, Any]) -> dict[str, Any]:
    """Tell what a report was measured under.

    Args:
        report: `LatencyReport.to_dict()`.

    Returns:
        What rows have besides figures; `None` where it was not looked at.
    """
    verdict, board = report.get("verdict") or {}, report.get("board") or {}
    return {
        **{name: report[name] for name in ("mode", "settings", "warnings", "environment")},
        "verdict": verdict.get("word"),
        "verdict_reasons": list(verdict.get("reasons", ())),
        "power_mode": board.get("power_mode"),
        "power_rail": (report.get("energy") or {}).get("rail"),
        "locked_clocks": list(report.get("locked_clocks") or ()),
    }


def _board_figures(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Find the mean of the judged clock and the hottest temperature while queries ran."""
    clocks: list[float] = []
    temperatures: list[float] = []
    if report.get("board") and report.get("window_ns"):
        device: Device = "gpu" if has_device(report["manifest"]["target"]) else "cpu"
        samples = BoardTrace.from_dict(report["board"]).window(*report["window_ns"])
        clocks = [c for s in samples if (c := device_clock_mhz(s, device)) is not None]
        temperatures = [degrees for s in samples for degrees in s.temperatures_c.values()]
    return {
        "clock_mhz": fmean(clocks) if clocks else None,
        "temperature_c": max(temperatures, default=None),
    }
