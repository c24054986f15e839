"""What the page says in words: the figures at its top, the audit of the build, the machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeattn.engine.tensorrt.build_report import describe_report
from edgeattn.profiling.page.words import (
    NOTHING,
    count,
    milliseconds,
    number,
    percent,
    queries,
    scaled,
)

_TYPES = ("int8", "float8", "int4", "float16", "bfloat16", "float32")
_VERDICTS = {
    "plugin": ("good", "plugin"),
    "fused": ("good", "fused"),
    "unfused": ("bad", "not fused"),
    "unknown": ("open", "not known"),
}


@dataclass(frozen=True)
class Figure:
    """A headline number.

    Attributes:
        name: What it is.
        value: The number.
        unit: Its unit.
        detail: How sure it is, or what it is made of.
    """

    name: str
    value: str
    unit: str
    detail: str = ""


@dataclass(frozen=True)
class Share:
    """A part of a bar that is whole: its colour, its words and its share."""

    kind: str
    text: str
    share: float


@dataclass(frozen=True)
class Attention:
    """How an engine computes one attention."""

    name: str
    kind: str
    verdict: str
    dtype: str
    layers: str
    reasons: str


def headline(report: Mapping[str, Any]) -> list[Figure]:
    """Choose the figures that a reader looks for first."""
    latency = report["latency"]
    figures = [Figure("Median latency", number(latency["p50_ms"]), "ms", _confidence(latency))]
    worst = "p99_ms" if latency["p99_ms"] is not None else "max_ms"
    name = "99 % of queries within" if worst == "p99_ms" else "Slowest query"
    beyond = f"slowest {milliseconds(latency['max_ms'])}" if worst == "p99_ms" else ""
    figures.append(Figure(name, number(latency[worst]), "ms", beyond))
    asked = queries(latency["num_samples"])
    figures.append(Figure("Throughput", number(report["throughput_qps"]), "queries/s", asked))
    if energy := report.get("energy"):
        error = f"± {number(energy['std_error_mj'], 2)} mJ standard error"
        rest_mw = energy["idle_mw"]
        idle = "" if rest_mw is None else f", above {rest_mw / 1e3:.2f} W at rest"
        detail = f"{error}; {energy['rail']}{idle}"
        figures.append(Figure("Energy per query", number(energy["mj"]), "mJ", detail))
    figures.append(
        Figure("Spread", f"{latency['cv_percent']:.1f}", "%", "standard deviation over mean")
    )
    return figures


def latency_parts(report: Mapping[str, Any]) -> list[Share]:
    """Split the mean latency into copies and compute; nothing if nothing is copied."""
    parts = {"h2d": "host to device", "compute": "compute", "d2h": "device to host"}
    means = {part: report[part]["mean_ms"] for part in parts}
    whole = sum(means.values())
    if not whole or not (means["h2d"] or means["d2h"]):
        return []
    return [
        Share(f"c{i}", f"{text} {milliseconds(means[part])}", means[part] / whole)
        for i, (part, text) in enumerate(parts.items(), start=1)
    ]


def precision_bar(precision: Mapping[str, Any]) -> list[Share]:
    """Share out the layers that do arithmetic by the type that they compute in."""
    counts = precision["compute"]
    whole = sum(counts.values())
    ordered = sorted(counts, key=lambda dtype: (*_TYPES, dtype).index(dtype))
    return [
        Share(
            f"c{_TYPES.index(dtype) + 1 if dtype in _TYPES else 8}",
            f"{dtype}: {count(counts[dtype], 'layer')}",
            counts[dtype] / whole,
        )
        for dtype in ordered
        if counts[dtype]
    ]


def attention_audit(build_report: Mapping[str, Any]) -> list[Attention]:
    """List the attentions with how they are computed and, if not as asked, why."""
    return [
        Attention(
            each["name"],
            _VERDICTS[each["verdict"]][0],
            _VERDICTS[each["verdict"]][1],
            each["dtype"] or NOTHING,
            ", ".join(each["layers"]) or NOTHING,
            "; ".join([*each["reasons"], *each.get("notes", ())]),
        )
        for each in build_report["attention"]
    ]


def build_summary(build_report: Mapping[str, Any]) -> list[str]:
    """Sum the build up in sentences; what they go into stands in tables."""
    return [line for line in describe_report(build_report) if not line.startswith(" ")]


def board_facts(report: Mapping[str, Any]) -> dict[str, str]:
    """Say what was watched, how the board was set, and why its energy is not known."""
    board = report["board"]
    locked = board["jetson_clocks"]
    facts = {
        "Board": board["board"],
        "Power mode": board["power_mode"],
        "GPU clock": "" if locked is None else ("locked" if locked else "free to move"),
        "Locked for this": ", ".join(report.get("locked_clocks") or ()),
        "Power of the whole": board["total_rail"],
        "No energy": report.get("no_energy") or "",
        "Samples": f"{len(board['time_ns']):,}, every {1e3 * board['period_s']:g} ms asked for, "
        f"from {board['source']}",
        "Problem": board["problem"],
    }
    return {name: text for name, text in facts.items() if text}


def energy_facts(energy: Mapping[str, Any]) -> dict[str, str]:
    """Say how the energy was found."""
    facts = {
        "Energy per query": f"{number(energy['mj'])} ± {number(energy['std_error_mj'], 2)} mJ",
        "With the board's rest": f"{number(energy['gross_mj'])} mJ",
        "Mean power": f"{energy['busy_mw'] / 1e3:.3f} W",
        "At rest": "" if energy["idle_mw"] is None else f"{energy['idle_mw'] / 1e3:.3f} W",
        "Method": energy["method"],
        "Samples": f"{energy['samples']:,} in {energy['window_s']:.2f} s",
    }
    return {name: text for name, text in facts.items() if text}


def layer_sum(layers: Mapping[str, Any]) -> str:
    """Say how well the layers add up to the whole."""
    ratio = layers["total_ms"] / layers["whole_ms"] if layers["whole_ms"] else None
    return (
        f"The layers add up to {milliseconds(layers['total_ms'])}, {percent(ratio)} of the "
        f"{milliseconds(layers['whole_ms'])} that a query takes when nobody looks into it; "
        f"{layers['runs']:,} runs."
    )


def setting_facts(report: Mapping[str, Any]) -> dict[str, str]:
    """Say what was measured and how."""
    manifest = report["manifest"]
    inputs = (f"{name} {'×'.join(map(str, dims))}" for name, dims in report["inputs"].items())
    facts = {"Mode": report["mode"], "Inputs": ", ".join(inputs)}
    for name, value in {**report["settings"], **manifest["options"]}.items():
        facts[name.replace("_", " ")] = _plain(value)
    for role, parent in manifest["parents"].items():
        facts[role] = f"{parent['file']}, sha256 {parent['sha256'][:16]}…"
    return {name: text for name, text in facts.items() if text}


def machine_facts(report: Mapping[str, Any]) -> dict[str, str]:
    """Say what it was measured on."""
    machine, after = report["environment"], report["environment_after"]
    clocks = machine["clock_mhz"]
    facts = {
        "Machine": machine["machine"],
        "Processor": machine["cpu_model"],
        "Cores": f"{machine['usable_cores']} usable, {machine['logical_cores']} logical",
        "Architecture": machine["cpu_architecture"],
        "Processor features": ", ".join(machine["cpu_features"]),
        "Governor": machine["governor"],
        "Clocks": clocks and f"{clocks[0]:.0f} to {clocks[1]:.0f} MHz",
        "Load before, after": _pair(machine["load_average"], after["load_average"]),
        "Memory": scaled(machine["memory_total_bytes"], "B"),
        "System": f"{machine['operating_system']}, kernel {machine['kernel']}",
        "Versions": ", ".join(f"{name} {version}" for name, version in machine["tools"].items()),
    }
    return {name: text for name, text in facts.items() if text and text != NOTHING}


def _confidence(latency: Mapping[str, Any]) -> str:
    interval = latency.get("p50_interval_ms")
    if not interval:
        return ""
    return f"{number(interval[0])} to {number(interval[1])} ms with 95 % confidence"


def _pair(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.2f}, {after:.2f}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value)
