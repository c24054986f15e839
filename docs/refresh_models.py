"""Write the tables of docs/models.md from the newest rows of the benchmark of foreign models.

`make models-page` measures first; this script alone only writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "models.md"
sys.path.insert(0, str(PAGE.parents[1]))  # the benchmarks are no installed package

from benchmarks.bench_foreign_models import AS_WRITTEN, BENCHMARK, FUSED  # noqa: E402
from benchmarks.foreign_models import MODELS, PublicModel  # noqa: E402
from benchmarks.pages import markdown, with_origin, write_blocks  # noqa: E402
from benchmarks.past_rows import Row, past_rows  # noqa: E402
from edgeattn.plugin.roofline import MEMORY_SHARE  # noqa: E402
from edgeattn.targets import AGX_ORIN, CARDS, ORIN_NANO_SUPER, THOR, Gpu  # noqa: E402

COMMAND = "python -m benchmarks.bench_foreign_models"
RTX_4090 = next(card for card in CARDS if "RTX 4090" in card.name)
DEVICES: Mapping[str, Gpu] = {
    "jetson-orin-nano": ORIN_NANO_SUPER,
    "jetson-agx-orin": AGX_ORIN,
    "jetson-thor": THOR,
    RTX_4090.name: RTX_4090,
}
EXPORTERS = {"dynamo": "dynamo", "script": "TorchScript"}

Rows = Mapping[str, Row]


def main() -> None:
    """Replace the blocks of the page."""
    found = list(past_rows(BENCHMARK))
    rows, timed = newest(found), newest([row for row in found if row["case"]["timed"]])
    blocks = {
        "summary": (summary(rows, timed), rows),
        "fusion": (fusion_table(rows), rows),
        "left": (left_table(rows), rows),
        "latency": (latency_table(timed), timed),
        "bytes": (bytes_table(rows), rows),
        "export": (export_table(rows), rows),
    }
    write_blocks(
        PAGE,
        {
            name: with_origin(block, COMMAND, list(used.values()))
            for name, (block, used) in blocks.items()
        },
    )


def newest(rows: Sequence[Row]) -> dict[str, Row]:
    """Give the newest row of each model of the list, in its order."""
    last = {row["case"]["model"]: row for row in rows}
    return {name: last[name] for name in MODELS if name in last}


def whole(rows: Rows) -> dict[str, Mapping[str, Any]]:
    """Give the results of the models that went through all steps."""
    return {name: row["result"] for name, row in rows.items() if "failed" not in row["result"]}


def summary(rows: Rows, timed: Rows) -> str:
    """Say in a few lines what all models came to."""
    results = whole(rows)
    if not results:
        return ""
    fusions = {name: result["fusion"] for name, result in results.items()}
    found, fused = (sum(each[key] for each in fusions.values()) for key in ("found", "fused"))
    with_fused = sum(bool(each["fused"]) for each in fusions.values())
    errors = {name: result["engines"]["error"] for name, result in results.items()}
    slowest = max(fusions, key=lambda name: fusions[name]["seconds"])
    largest = max(fusions, key=lambda name: fusions[name]["peak_mib"])
    worst = max(errors, key=lambda name: errors[name])
    lines = [
        f"{len(rows)} models, {found} attentions; {fused} of them fused, in {with_fused} models.",
        f"Largest relative error of an output: {errors[worst]:.1e} (`{worst}`).",
        f"Fusing took at most {fusions[slowest]['seconds']:.1f} s (`{slowest}`) and "
        f"{fusions[largest]['peak_mib'] / 1024:.2f} GiB (`{largest}`).",
    ]
    if failed := [name for name in rows if name not in results]:
        lines.append(f"Failed: {', '.join(f'`{name}`' for name in failed)}, see the table.")
    engines = {name: result["engines"] for name, result in whole(timed).items()}
    changed = {name: each for name, each in engines.items() if "ratio" in each}
    if changed:
        faster = [name for name, each in changed.items() if each["ratio_interval"][0] > 1]
        slower = [name for name, each in changed.items() if each["ratio_interval"][1] < 1]
        told = ", ".join(f"`{name}`" for name in slower) or "none"
        lines.append(
            f"On the CPU {len(faster)} of {len(changed)} models with fused attention are surely "
            f"faster than as written; surely slower: {told}."
        )
    return "\n".join(f"- {line}" for line in lines)


def fusion_table(rows: Rows) -> str:
    """Write nodes, attentions, error, time and memory of each model."""
    lines = []
    for name, row in rows.items():
        result = row["result"]
        first = (f"`{name}`", size_of(MODELS[name]))
        if "failed" in result:
            lines.append((*first, result["failed"], *[""] * 7))
            continue
        fusion, simplified = result["fusion"], result["simplification"]
        nodes = (fusion["nodes_before"], simplified["nodes_after"], fusion["nodes_after"])
        lines.append(
            (
                *first,
                ", ".join(f"{windows} ({n})" for windows, n in fusion["windows"].items()),
                f"{fusion['fused']} of {fusion['found']}",
                *map(str, nodes),
                error_of(result),
                f"{fusion['seconds']:.1f}",
                f"{fusion['peak_mib'] / 1024:.2f}",
            )
        )
    columns = (
        *("model", "input", "windows fused (attentions)", "fused", "nodes as exported"),
        *("simplified", "fused", "error", "s", "GiB"),
    )
    return markdown(columns, lines)


def error_of(result: Mapping[str, Any]) -> str:
    """Write how far the outputs of the fused graph are from those of the graph as written."""
    error = result["engines"]["error"]
    return f"{error:.0e}" if error else "0"


def left_table(rows: Rows) -> str:
    """Write why attentions were left as they are."""
    lines = [
        (f"`{name}`", str(count), reason)
        for name, result in whole(rows).items()
        for reason, count in alike(result["fusion"]["reasons"]).items()
    ]
    return markdown(("model", "attentions", "why they stay as they are written"), lines)


def alike(reasons: Mapping[str, int]) -> dict[str, int]:
    """Count reasons that differ in names of nodes and in numbers alone as one."""
    groups: dict[str, list[str]] = {}
    for reason in reasons:
        groups.setdefault(re.sub(r"\S*\d\S*", "…", reason), []).append(reason)
    return {
        members[0] if len(members) == 1 else shared: sum(reasons[each] for each in members)
        for shared, members in groups.items()
    }


def latency_table(rows: Rows) -> str:
    """Write what the CPU engine takes as written and fused, where these differ."""
    lines = []
    for name, result in whole(rows).items():
        engines = result["engines"]
        if engines["same"]:
            continue
        low, high = engines["ratio_interval"]
        medians = (f"{engines['latency'][way]['p50_ms']:.1f}" for way in (AS_WRITTEN, FUSED))
        ratio = f"{engines['ratio']:.2f} ({low:.2f} to {high:.2f})"
        lines.append((f"`{name}`", *medians, ratio, str(engines["threads"])))
    columns = ("model", "as written, ms", "fused, ms", "times as fast (95 %)", "threads")
    return markdown(columns, lines)


def bytes_table(rows: Rows) -> str:
    """Write the bytes that the plugin moves, and the time of those that it saves."""
    lines = []
    for name, result in whole(rows).items():
        moved = result["fusion"]["bytes_moved"]
        if not moved["plugin"]:
            continue
        megabytes = [f"{moved[way] / 1e6:.1f}" for way in ("plugin", "mha", "separate")]
        saved = [moved[way] - moved["plugin"] for way in ("mha", "separate")]
        times = [
            " to ".join(f"{least_ms(count, gpu):.2f}" for count in saved)
            for gpu in DEVICES.values()
        ]
        lines.append((f"`{name}`", *megabytes, *times))
    columns = (
        *("model", "plugin, MB", "one kernel and copies, MB", "separate kernels, MB"),
        *(f"{name}, ms saved" for name in DEVICES),
    )
    return markdown(columns, lines)


def least_ms(count: int, gpu: Gpu) -> float:
    """Tell how long a GPU takes to move bytes, at the share of its bandwidth that is reached."""
    assert gpu.memory_gb_s is not None
    return count / (gpu.memory_gb_s * MEMORY_SHARE * 1e6)


def export_table(rows: Rows) -> str:
    """Write where each configuration is from, how it was exported, and what went wrong."""
    lines = []
    for name, row in rows.items():
        model, export = MODELS[name], row["result"].get("export")
        trouble = "; ".join(export["trouble"]) if export else row["result"]["failed"]
        way = EXPORTERS[export["exporter"]] if export else "none"
        lines.append(
            (f"`{name}`", model.library, model.architecture, model.published, way, trouble)
        )
    columns = ("model", "code", "class or name", "configuration of", "exporter", "trouble met")
    return markdown(columns, lines)


def size_of(model: PublicModel) -> str:
    """Write the size of an input: `224x224`, or the number of tokens."""
    sizes = model.input_shape[2:] or model.input_shape[1:]
    return "x".join(map(str, sizes))


if __name__ == "__main__":
    main()
