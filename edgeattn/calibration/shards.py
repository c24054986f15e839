"""Merge calibrations of shards of the data into the table of the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeattn.artifacts import Manifest, Parent, check_writable
from edgeattn.calibration.checkpoint import CalibrationState, Shard
from edgeattn.calibration.finish import write_table
from edgeattn.calibration.float_graph import load_float_graph
from edgeattn.calibration.observations import Observations
from edgeattn.calibration.recipe import CalibrationOptions
from edgeattn.errors import ArtifactError, SpecError
from edgeattn.graph.files import graph_sha256

Progress = Callable[[int, "int | None", str], None]


def merge_calibrations(
    graph: Path | str,
    states: Sequence[Path | str],
    output: Path | str | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Merge the states of all shards into the table that the whole data give, bit for bit.

    Args:
        graph: The ONNX file.
        states: What `calibrate(…, shard=…, state=…)` wrote, one for each shard, in any order.
        output: The table to write; by default `NAME.calib.json` beside `NAME.onnx`.
        progress: Called with steps done, their number, and a word.

    Returns:
        Path of the table.

    Raises:
        ArtifactError: If a file is missing or not whole, a shard is missing, unfinished or given
            twice, or the shards belong to different graphs, data or options.
    """
    graph = Path(graph)
    output = graph.with_suffix(".calib.json") if output is None else Path(output)
    check_writable(output)
    paths = [Path(path) for path in states]
    if not paths:
        raise SpecError("there is no state to merge", "give the states of all shards")
    first = CalibrationState.load(paths[0])
    expected = Manifest(
        kind="calibration-state",
        parents={"graph": Parent(graph.name, graph_sha256(graph))},
        options=first.manifest.options,
    )
    model = load_float_graph(graph)
    method, percentile = _method_of(first.manifest, paths[0])
    seen = Observations(model, method, percentile)
    shards = []
    for number, path in enumerate(paths):
        if progress:
            progress(number, len(paths), "merging")
        loaded = first if number == 0 else CalibrationState.load(path)
        loaded.check_same(expected, path)
        _check_same_data(loaded, first, path)
        part = Observations(model, method, percentile)
        loaded.restore(part, path)
        seen.merge(part)
        shards.append(Shard.parse(loaded.manifest.report["shard"]))
    _check_complete(shards)
    del model
    return write_table(graph, output, seen, first, progress)


def _method_of(manifest: Manifest, path: Path) -> tuple[str, float]:
    try:
        options = CalibrationOptions().with_given(
            method=manifest.options["method"], percentile=manifest.options.get("percentile")
        )
    except (KeyError, SpecError) as err:
        raise ArtifactError(f"{path} names no method of calibration", "calibrate again") from err
    return options.method, options.percentile


def _check_same_data(state: CalibrationState, first: CalibrationState, path: Path) -> None:
    """Refuse an unfinished shard and one of other data: every shard reads all samples."""
    if not state.manifest.report["finished"]:
        raise ArtifactError(
            f"the calibration of {path} is not finished", "go on with it: the same command again"
        )
    names = ("skipped", "ignored", "left_out", "samples")
    same = all(state.manifest.report[n] == first.manifest.report[n] for n in names)
    if list(state.digests) != list(first.digests) or not same:
        raise ArtifactError(f"{path} was made from other data than the first state", "")


def _check_complete(shards: Sequence[Shard]) -> None:
    count = shards[0].shards
    wanted = [Shard(number, count) for number in range(1, count + 1)]
    if sorted(shards) != wanted:
        given = ", ".join(str(shard) for shard in sorted(shards))
        raise ArtifactError(
            f"the states are of the shards {given}; expected each of {wanted[0]} to {wanted[-1]} "
            "once",
            "calibrate those that are missing",
        )
