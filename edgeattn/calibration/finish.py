"""From what a calibration saw to its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeattn.artifacts import Manifest, Parent
from edgeattn.calibration.checkpoint import CalibrationState
from edgeattn.calibration.choose import choose_thresholds
from edgeattn.calibration.data import data_sha256
from edgeattn.calibration.float_graph import load_float_graph
from edgeattn.calibration.observations import Observations
from edgeattn.calibration.table import CalibTable

Progress = Callable[[int, "int | None", str], None]


def write_table(
    graph: Path,
    output: Path,
    seen: Observations,
    state: CalibrationState,
    progress: Progress | None,
) -> Path:
    """Give each tensor its range, for `auto` by a choice in the network itself.

    Args:
        graph: The graph that was calibrated.
        output: The table to write.
        seen: What the observers saw of all samples.
        state: What was read, and how.
        progress: Called while `auto` chooses.

    Returns:
        Path of the table.

    Raises:
        ArtifactError: If the graph is missing or the output's folder not writable.
        GraphError: If the graph cannot be read.
    """
    report = state.manifest.report
    choice: dict[str, Any] = {}
    if seen.method == "auto":
        candidates = seen.candidates()
        model = load_float_graph(graph)
        chosen = choose_thresholds(model, candidates, seen.kept.arrays(), progress)
        tensors = seen.chosen_ranges(candidates, chosen.methods)
        counts = Counter(chosen.methods.values())
        choice = {"methods": dict(counts.most_common()), "choice": chosen.report}
    else:
        tensors = seen.ranges()
    manifest = Manifest(
        kind="table",
        parents={
            "graph": state.manifest.parents["graph"],
            "data": Parent(report["data"], data_sha256(state.digests)),
        },
        options=state.manifest.options,
        report={
            "samples": report["samples"],
            "left_out": report["left_out"],
            "skipped": report["skipped"],
            "ignored": report["ignored"],
            "tensors": len(tensors),
            "zero_tensors": [
                name
                for name, entry in tensors.items()
                if entry.observed and not entry.observed.amax
            ],
            **choice,
        },
    )
    return CalibTable(seen.method, tensors, manifest).save(output)
