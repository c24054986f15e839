"""Models of other libraries, as PyTorch's exporters write them, in every precision.

As they are and with their attention fused: what is lost is rounding, and it is alike.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgeattn
from edgeattn.artifacts import read_manifest
from edgeattn.calibration.judge import OutputJudge
from edgeattn.graph.files import load_graph
from edgeattn.graph.nodes import standard_opset
from edgeattn.graph.op import OP_TYPE, attention_nodes
from edgeattn.graph.placement import RECIPES
from tests.foreign_attention import CHANNELS, COLS, ROWS, windowed
from tests.foreign_graphs import Exporter, export, images_of, settled
from tests.foreign_models import SMALL_MODELS
from tests.quantization import floats

# The least SQNR of the output in dB. Weights are random, so that every block adds to the noise
# of those before it; 4 dB are left of Swin V2 in INT8.
FLOORS = {"int8": 3.0, "fp16": 25.0, "bf16": 10.0, "int8+fp16": 3.0, "int8+bf16": 3.0}
# Of this one, whose output hardly depends on the image, PyTorch's own bfloat16 leaves 11 dB.
LOWER_FLOORS = {"torchvision-maxvit": {"bf16": 8.0}}
# INT8 of a graph and of the same graph with attention fused, with other intermediate tensors.
MOST_APART_DB = 4.0

OPSETS: dict[Exporter, tuple[int, ...]] = {
    "script": (13, 14, 15, 16, 17, 18, 20),
    "dynamo": (18, 19, 20, 21, 22, 23),
}


# Every model once by each exporter, and one model in every opset; from 23 on PyTorch's exporter can
# write attention as one operator, of which windows are not read off.
CASES = sorted(
    {
        (name, exporter, opset)
        for exporter, opsets in OPSETS.items()
        for opset in opsets
        for name in SMALL_MODELS
        if name == "hf-swin" or opset == 20
    }
)


def write(name: str, exporter: Exporter, opset: int, folder: Path) -> Path:
    model = SMALL_MODELS[name]
    graph = folder / "theirs.onnx"
    images = images_of(model.even)
    found = export(settled(model.build(model.even), images), images, exporter, {0: "batch"}, opset)
    graph.write_bytes(found.SerializeToString())
    return graph


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exporter", "opset"), CASES)
def test_exports_are_quantized_fused_or_not(
    name: str, exporter: Exporter, opset: int, tmp_path: Path
) -> None:
    graph = write(name, exporter, opset, tmp_path)
    attentions = len(SMALL_MODELS[name].attentions(SMALL_MODELS[name].even))
    data = {"x": images_of(SMALL_MODELS[name].even, batch=6).numpy()}
    _check_fused_or_not(graph, data, attentions, FLOORS | LOWER_FLOORS.get(name, {}))


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_windows_that_are_written_out_are_quantized_fused_or_not(
    opset: int, tmp_path: Path
) -> None:
    model = windowed()
    model.opset_import[0].version = opset
    graph = tmp_path / "theirs.onnx"
    graph.write_bytes(model.SerializeToString())
    _check_fused_or_not(graph, {"x": floats(6, ROWS, COLS, CHANNELS)}, 2, FLOORS)


def _check_fused_or_not(
    graph: Path, data: dict[str, np.ndarray], attentions: int, floors: dict[str, float]
) -> None:
    fused = edgeattn.fuse(graph, graph.with_name("fused.onnx"))
    assert len(attention_nodes(load_graph(fused))) == attentions
    figures = {path: _figures(path, data) for path in (graph, fused)}
    for path, found in figures.items():
        for (precision, recipe), sqnr_db in found.items():
            assert sqnr_db > floors[precision], (path.stem, precision, recipe)
    apart = figures[graph]["int8", "linear"] - figures[fused]["int8", "linear"]
    assert abs(apart) < MOST_APART_DB
    decisions = read_manifest(fused.with_suffix(".int8.attention.onnx")).report["decisions"]
    read = [d for d in decisions if d["op_type"] == OP_TYPE and d["quantized"]]
    assert sum(d["reason"].startswith("input") for d in read) == attentions


def _figures(graph: Path, data: dict[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Quantize a graph in every way, and judge each on the data."""
    judge = OutputJudge(load_graph(graph), data)
    table = edgeattn.calibrate(graph, data, method="minmax")
    ways = [("int8", recipe) for recipe in RECIPES]
    ways += [("int8+fp16", "full"), ("int8+bf16", "linear"), ("fp16", "linear"), ("bf16", "linear")]
    figures = {}
    for precision, recipe in ways:
        output = graph.with_suffix(f".{precision}.{recipe}.onnx")
        needs_table = precision.startswith("int8")
        edgeattn.quantize(
            graph,
            output,
            table=table if needs_table else None,
            precision=precision,
            recipe=recipe,
        )
        model = load_graph(output)
        if "+" in precision:
            assert standard_opset(model) >= 19
        figures[precision, recipe] = judge.sqnr_db(model)
    return figures
