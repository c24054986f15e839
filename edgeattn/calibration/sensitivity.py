"""What INT8 costs at the network's output, layer by layer and block by block."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgeattn.artifacts import (
    Manifest,
    Parent,
    check_writable,
    sha256_of_file,
    write_bytes,
    write_json,
)
from edgeattn.calibration.float_graph import load_float_graph
from edgeattn.calibration.judge import OutputJudge, output_sqnr_db, output_top1
from edgeattn.calibration.labelled import LabelledSamples, load_samples
from edgeattn.calibration.sensitivity_page import sensitivity_page
from edgeattn.calibration.sources import Array, DataSource
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import GraphError
from edgeattn.graph.blocks import blocks_of
from edgeattn.graph.compare import finite_or_none
from edgeattn.graph.files import graph_sha256, input_specs
from edgeattn.graph.nodes import node_label
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import Recipe, place_qdq

# Each layer takes two trials on all of them.
LABELLED_SAMPLES = 256

Progress = Callable[[int, "int | None", str], None]


@dataclass(frozen=True)
class Figures:
    """What a graph's outputs are worth.

    Attributes:
        sqnr_db: Against the float graph.
        top1: Accuracy, in percent; `None` without labels.
    """

    sqnr_db: float
    top1: float | None


@dataclass(frozen=True)
class Effect:
    """What quantizing some layers, and sparing them, does to the output.

    Attributes:
        name: The layer or block.
        nodes: Its nodes.
        alone: Figures with nothing else quantized: low where INT8 hurts.
        without: Figures with all the others quantized: high where sparing it helps.
    """

    name: str
    nodes: tuple[str, ...]
    alone: Figures
    without: Figures

    def to_dict(self) -> dict[str, Any]:
        """Turn the effect into JSON values; the SQNR is null where there is no noise."""
        return {
            "name": self.name,
            "nodes": list(self.nodes),
            "alone_db": finite_or_none(self.alone.sqnr_db),
            "without_db": finite_or_none(self.without.sqnr_db),
            "alone_top1": self.alone.top1,
            "without_top1": self.without.top1,
        }


@dataclass(frozen=True)
class Sensitivity:
    """Effects of all layers and blocks of a graph.

    Attributes:
        manifest: What was measured: graph, table and data by their hashes, the options.
        num_samples: Samples judged on.
        whole: Figures with all of them quantized.
        float_top1: Accuracy of the float graph, in percent; `None` without labels.
        layers: Effect of each layer, the most harmful first.
        blocks: Effect of each block of several layers, the most harmful first.
    """

    manifest: Manifest
    num_samples: int
    whole: Figures
    float_top1: float | None
    layers: tuple[Effect, ...]
    blocks: tuple[Effect, ...]

    def to_dict(self) -> dict[str, Any]:
        """Turn the report into JSON values."""
        return {
            "manifest": self.manifest.to_dict(),
            "figures": {
                "num_samples": self.num_samples,
                "int8_db": finite_or_none(self.whole.sqnr_db),
                "float_top1": self.float_top1,
                "int8_top1": self.whole.top1,
            },
            "layers": [effect.to_dict() for effect in self.layers],
            "blocks": [effect.to_dict() for effect in self.blocks],
        }


def sensitivity(
    graph: Path | str,
    table: Path | str,
    data: DataSource,
    labels: Any = None,
    *,
    recipe: Recipe = "linear",
    samples: int | None = None,
    output: Path | str | None = None,
    html: Path | str | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure what INT8 costs in each layer and block.

    Args:
        graph: The float graph that was calibrated.
        table: Its calibration table.
        data: Real inputs, as `calibrate` takes them.
        labels: Class indices of the samples, for top-1: an array, or a `.npy` or `.npz` file; by
            default an array `label` among the data.
        recipe: What to quantize.
        samples: Most samples to use; by default 64, with labels 256.
        output: JSON file to write; none by default.
        html: The same as a page, in one file; none by default.
        progress: Called with trials done, their number, and a word.

    Raises:
        ArtifactError: If a file is missing or the output's folder is not writable.
        DataError: If data or labels do not fit the graph.
        GraphError: If the graph cannot be read or run, or has nothing to quantize.
        SpecError: If the recipe is unknown.
        TableError: If the table is malformed or of another graph.
    """
    graph, table = Path(graph), Path(table)
    for path in (output, html):
        if path is not None:
            check_writable(Path(path))
    calib_table = CalibTable.load(table)
    calib_table.check_parent(graph)
    model = load_float_graph(graph)
    judged = load_samples(
        data, input_specs(model), labels, most=samples, most_labelled=LABELLED_SAMPLES
    )
    manifest = Manifest(
        kind="report",
        parents={
            "graph": Parent(graph.name, graph_sha256(graph)),
            "table": Parent(table.name, sha256_of_file(table)),
            "data": judged.parent,
        },
        options={"recipe": recipe, "samples": len(judged)},
    )
    found = measure(model, calib_table, recipe, judged, manifest, progress)
    if output is not None:
        write_json(Path(output), found.to_dict())
    if html is not None:
        write_bytes(Path(html), sensitivity_page(found).encode())
    return found


def measure(
    model: onnx.ModelProto,
    table: CalibTable,
    recipe: Recipe,
    samples: LabelledSamples,
    manifest: Manifest,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure a graph in memory; see `sensitivity`."""
    nodes = quantized_nodes(model, recipe)
    blocks = [block for block in blocks_of(model, nodes) if len(block.nodes) > 1]
    groups = [(node, (node,)) for node in nodes] + [(b.name, b.nodes) for b in blocks]
    scales = table.quant_scales
    trials = NodeTrials(
        model, lambda keep: insert_qdq(model, scales, recipe, keep)[0], recipe, samples
    )
    effects = []
    for number, (name, members) in enumerate(groups):
        if progress:
            progress(number, len(groups), "measuring")
        alone = trials.judge(set(nodes) - set(members))
        effects.append(Effect(name, members, alone, trials.judge(members)))
    layers, of_blocks = effects[: len(nodes)], effects[len(nodes) :]
    return Sensitivity(
        manifest=manifest,
        num_samples=len(samples),
        whole=trials.judge(()),
        float_top1=trials.float_figures.top1,
        layers=tuple(sorted(layers, key=lambda effect: effect.alone.sqnr_db)),
        blocks=tuple(sorted(of_blocks, key=lambda effect: effect.alone.sqnr_db)),
    )


def quantized_nodes(
    model: onnx.ModelProto, recipe: Recipe, keep_float: Collection[str] = ()
) -> list[str]:
    """Name the nodes that a recipe quantizes, in the graph's order.

    Raises:
        GraphError: If there are none.
        SpecError: If the recipe or a node to keep in float is unknown.
    """
    placement = place_qdq(model, recipe, keep_float)
    indices = sorted({*placement.linears, *placement.reads})
    return list(dict.fromkeys(node_label(model.graph.node[index]) for index in indices))


class NodeTrials:
    """A float graph, and what it loses with some of its nodes in INT8.

    Args:
        model: The float graph.
        make: Quantizes it, but for the nodes it is given.
        recipe: By which it does so.
        samples: What to judge on.

    Attributes:
        float_figures: The float graph's own.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        make: Callable[[Collection[str]], onnx.ModelProto],
        recipe: Recipe,
        samples: LabelledSamples,
    ) -> None:
        self._model, self._make, self._recipe = model, make, recipe
        self._judge = OutputJudge(model, samples.arrays)
        self._labels = samples.labels
        self.float_figures = self._figures(self._judge.reference)

    def judge(self, keep_float: Collection[str]) -> Figures:
        """Judge with all but some nodes quantized.

        Raises:
            GraphError: If the graph does not run.
        """
        try:
            place_qdq(self._model, self._recipe, keep_float)
        except GraphError:  # all that there was to quantize is kept
            return self.float_figures
        return self._figures(self._judge.outputs(self._make(keep_float)))

    def _figures(self, outputs: Mapping[str, Array]) -> Figures:
        sqnr_db = output_sqnr_db(self._judge.reference, outputs)
        top1 = None if self._labels is None else output_top1(outputs, self._labels)
        return Figures(sqnr_db, top1)
