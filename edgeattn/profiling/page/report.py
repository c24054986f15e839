"""From the values of a report to its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeattn.artifacts import write_bytes
from edgeattn.errors import ArtifactError
from edgeattn.profiling.modes import MODES
from edgeattn.profiling.page import facts, tables
from edgeattn.profiling.page.board_plots import board_plots
from edgeattn.profiling.page.builds import builds_values
from edgeattn.profiling.page.latency_plots import latency_plots
from edgeattn.profiling.page.minutes import sustained_values
from edgeattn.profiling.page.render import render
from edgeattn.profiling.page.roofline import roofline
from edgeattn.profiling.page.treemap import treemap


def render_page(report: Mapping[str, Any], output: Path) -> None:
    """Write the page of a report.

    Args:
        report: As `page_html` takes it.
        output: File to write, `NAME.html`.

    Raises:
        ArtifactError: If the report lacks what every report has, or the file cannot be written.
        MissingDependencyError: If jinja2 is not installed.
    """
    write_bytes(Path(output), page_html(report).encode())


def page_html(report: Mapping[str, Any]) -> str:
    """Make the page of a report.

    Args:
        report: `LatencyReport.to_dict()`, and what else is known: `layers`
            (`LayerProfile.to_dict()`), `board` (`BoardTrace.to_dict()`), `energy`
            (`EnergyPerQuery.to_dict()`), `verdict` (`Verdict.to_dict()`), `sustained`
            (`Sustained.to_dict()`), `builds` (`RepeatedBuilds.to_dict()`), `build_report` (of the
            engine's manifest) and `window_ns`, when the measurement began and ended by the clock
            of the board's samples. What is absent is left out of the page.

    Raises:
        ArtifactError: If the report lacks what every report has.
        MissingDependencyError: If jinja2 is not installed.
    """
    try:
        values = _values(report)
    except (KeyError, TypeError, IndexError, AttributeError) as err:
        raise ArtifactError(f"no page can be made of the report: {err!r}") from err
    return render("report.html.j2", values)


def _values(report: Mapping[str, Any]) -> dict[str, Any]:
    layers, board = report.get("layers"), report.get("board")
    build_report, energy = report.get("build_report"), report.get("energy")
    sustained, builds = report.get("sustained"), report.get("builds")
    parents = report["manifest"]["parents"]
    engine = next((parent["file"] for parent in parents.values()), "an engine")
    machine = report["environment"]
    return {
        "title": engine,
        "kind": "latency report",
        "subtitle": [
            report["manifest"]["target"] or "engine",
            *(f"{n} {'×'.join(map(str, dims))}" for n, dims in report["inputs"].items()),
            machine["machine"] or machine["cpu_model"],
        ],
        "mode": report["mode"],
        "is_trtexec": _is_trtexec(report["mode"]),
        "verdict": report.get("verdict"),
        "warnings": report["warnings"],
        "figures": facts.headline(report),
        "parts": facts.latency_parts(report),
        "latency_plots": latency_plots(report),
        "statistics": tables.statistics_table(report),
        "layers": layers and _layer_values(layers),
        "board": board
        and {
            "facts": facts.board_facts(report),
            "plots": board_plots(board, report.get("window_ns")),
            "is_throttled": any(board["throttled"]),
        },
        "energy": energy and facts.energy_facts(energy),
        "sustained": sustained and sustained_values(sustained),
        "builds": builds and builds_values(builds),
        "build": build_report and _build_values(build_report),
        "settings": facts.setting_facts(report),
        "machine": facts.machine_facts(report),
        "version": report["manifest"]["tools"].get("edgeattn", ""),
    }


def _is_trtexec(sentence: str) -> bool:
    """Tell whether a mode has trtexec's percentiles, whose median may lie between two times."""
    mode = MODES.get(sentence.partition(":")[0])
    return mode is not None and mode.percentiles == "trtexec"


def _layer_values(layers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "sum": facts.layer_sum(layers),
        "note": layers["note"],
        "groups": treemap(layers),
        "modules": tables.module_table(layers),
        "roofline": roofline(layers),
        "table": tables.layer_table(layers),
    }


def _build_values(build_report: Mapping[str, Any]) -> dict[str, Any]:
    precision = build_report["precision"]
    return {
        "summary": facts.build_summary(build_report),
        "precision": facts.precision_bar(precision),
        "changed": tables.changed_table(precision),
        "attention": facts.attention_audit(build_report),
    }
