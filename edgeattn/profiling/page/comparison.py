"""A comparison as a page: who is faster and how sure that is, where, and at what accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeattn.artifacts import write_bytes
from edgeattn.profiling.comparison.gates import Gate
from edgeattn.profiling.comparison.result import Comparison, Comparisons
from edgeattn.profiling.comparison.sides import Side, machine_name
from edgeattn.profiling.page import comparison_tables as tables
from edgeattn.profiling.page.comparison_plots import changes, colour, forest, latencies
from edgeattn.profiling.page.facts import Figure
from edgeattn.profiling.page.render import render
from edgeattn.profiling.page.words import count, number

_KINDS = {"failed": "bad", "passed": "good", "too close to call": "open"}


def render_comparison(found: Comparisons, output: Path) -> None:
    """Write the page of a comparison.

    Args:
        found: What was compared.
        output: File to write, `NAME.html`.

    Raises:
        ArtifactError: If the file cannot be written.
        MissingDependencyError: If jinja2 is not installed.
    """
    write_bytes(output, comparison_html(found).encode())


def comparison_html(found: Comparisons) -> str:
    """Make the page of a comparison.

    Raises:
        MissingDependencyError: If jinja2 is not installed.
    """
    reference, *others = found.sides
    candidates = others[0].name if len(others) == 1 else count(len(others), "candidate")
    machines = dict.fromkeys(machine_name(side.environment) for side in found.sides)
    gates = [_gate(pair, gate) for pair in found.pairs for gate in pair.gates]
    values: dict[str, Any] = {
        "title": f"{candidates} against {reference.name}",
        "kind": "comparison",
        "subtitle": [machine for machine in machines if machine],
        "verdict": _verdict([gate["verdict"] for gate in gates]),
        "figures": _headline(found),
        "modes": list(dict.fromkeys(side.mode for side in found.sides if side.latency)),
        "warnings": found.warnings,
        "gates": gates,
        "forest": forest(found),
        "changes": changes(found),
        "latency_plots": latencies(found.sides),
        "ratios": tables.ratios(found.pairs),
        "statistics": tables.statistics(found.sides),
        "modules": tables.modules(found),
        "accuracy": tables.accuracy(found.pairs),
        "top1": tables.top1(found.pairs),
        "sides": [
            {"title": f"{side.letter} {side.name}", "kind": colour(index), "facts": _facts(side)}
            for index, side in enumerate(found.sides)
        ],
        "version": found.pairs[0].manifest.tools.get("edgeattn", ""),
    }
    return render("comparison.html.j2", values)


def _headline(found: Comparisons) -> list[Figure]:
    """Choose the figures that a reader looks for first."""
    if len(found.pairs) > 1:
        return [
            figure
            for pair in found.pairs
            for figure in _ratio_figure(pair, "p50", f"{pair.b.letter} over A, median")
        ]
    (pair,) = found.pairs
    figures = [
        *_ratio_figure(pair, "p50", "Median, B over A"),
        *_ratio_figure(pair, "p99", "99th percentile, B over A"),
    ]
    ours, theirs = pair.a.energy_mj, pair.b.energy_mj
    if ours and theirs is not None:
        costs = f"A {number(ours)} mJ/query, B {number(theirs)} mJ/query"
        figures.append(Figure("Energy, B over A", f"{theirs / ours:.3f}", "times", costs))
    of_pair = pair.figures()
    if pair.top1_drop is not None:
        shares = f"A {pair.top1_a:.2f} %, B {pair.top1_b:.2f} %"
        figures.append(Figure("Top-1 lost", f"{pair.top1_drop:.2f}", "points", shares))
    if pair.outputs:
        samples = count(pair.num_samples, "sample")
        figures.append(Figure("SQNR", number(of_pair["sqnr_db"], 3), "dB", samples))
    return figures


def _ratio_figure(pair: Comparison, name: str, words: str) -> list[Figure]:
    if name not in pair.ratios:
        return []
    ratio = pair.ratios[name]
    sure = ratio.missing
    if ratio.interval:
        low, high = (f"{bound:.3f}" for bound in ratio.interval)
        sure = f"{low} to {high} with 95 % confidence"
    return [Figure(words, f"{ratio.value:.3f}", "times", sure)]


def _gate(pair: Comparison, gate: Gate) -> dict[str, str]:
    return {
        "condition": str(gate.condition),
        "candidate": f"{pair.b.letter} {pair.b.name}",
        "verdict": gate.word,
        "kind": _KINDS[gate.word],
        "found": gate.found,
    }


def _verdict(words: list[str]) -> dict[str, str] | None:
    """Sum the gates up: one that failed counts most."""
    if not words:
        return None
    worst = min(words, key=("failed", "too close to call", "passed").index)
    same = f"{words.count(worst)} of {count(len(words), 'gate')}"
    return {"word": worst, "kind": _KINDS[worst], "text": same}


def _facts(side: Side) -> dict[str, str]:
    """Say what a side is and what it was measured on."""
    environment, board = side.environment, side.board
    shapes = (f"{name} {'×'.join(map(str, dims))}" for name, dims in side.inputs.items())
    settings = {name: value for name, value in side.settings.items() if name != "engine"}
    facts = {
        "Source": "a report" if side.is_report else "an engine, measured for this page",
        **{role: f"{p.file}, sha256 {p.sha256[:16]}…" for role, p in side.parents.items()},
        "Runs on": str(side.settings.get("engine", side.target)),
        "Mode": side.mode,
        "Inputs": ", ".join(shapes),
        **{name.replace("_", " "): str(value) for name, value in settings.items()},
        "Machine": machine_name(environment),
        "Governor": (environment.governor or "") if environment else "",
        "System": environment.operating_system if environment else "",
        "Power mode": board.trace.power_mode if board else "",
        "Verdict": f"{board.verdict.word}: {'; '.join(board.verdict.reasons)}" if board else "",
    }
    return {name: text for name, text in facts.items() if text}
